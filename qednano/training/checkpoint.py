"""Checkpoints that are complete or absent, kept few, and found again by verifying them.

A checkpoint is a folder ``checkpoints/step-00000123`` closed by a manifest. Each rank hands over what it has in CPU
memory and trains on; a thread writes it into a staging folder and leaves a note. Rank 0's thread waits for all notes,
closes the folder and renames it. A full disk or a crash at any point leaves the previous ones.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from qednano.artifacts import publish, verify, write_json, write_manifest
from qednano.errors import ArtifactError, CheckpointError, QedError

log = logging.getLogger(__name__)
_STATE, _PREFIX = "state.json", "step-"
_NOTICE = 0.02  # seconds between looks for the other ranks' notes


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, the optimizer step, and the job's own state (data position and so on)."""

    folder: Path
    step: int
    state: dict[str, Any]


@dataclass
class _Writing:
    """A checkpoint being written by this process's thread."""

    step: int
    final: Path
    thread: threading.Thread
    error: BaseException | None = None
    hopeless: threading.Event = field(default_factory=threading.Event)  # another rank could not write its part


class Checkpoints:
    """The checkpoints of one run, of which the last `keep_last` and the `keep_best` with the highest score are kept.

    `before_publish` may raise (fencing) just before one becomes visible; `published` is called with each that has
    become so, and with those that stay. Both run on rank 0, in the writing thread.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        keep_last: int = 2,
        keep_best: int = 0,
        attempt: int = 0,
        before_publish: Callable[[], None] = lambda: None,
        published: Callable[[Path, list[Path]], None] = lambda new, kept: None,
    ) -> None:
        self.folder = run_dir / "checkpoints"
        self.keep_last, self.keep_best, self.attempt = keep_last, keep_best, attempt
        self.before_publish, self.published = before_publish, published
        self._writing: _Writing | None = None

    def save(self, step: int, state: dict[str, Any], write: Callable[[Path], None], score: float | None = None) -> Path:
        """Write a checkpoint and wait for it. Every rank calls it; see `start`.

        Raises CheckpointError when anything can't be written; the previous checkpoints are intact then.
        """
        final = self.start(step, state, write, score)
        self.wait()
        return final

    def start(
        self, step: int, state: dict[str, Any], write: Callable[[Path], None], score: float | None = None
    ) -> Path:
        """Begin to write a checkpoint, after the one before is done: `write` puts this rank's files into the given
        folder, from a thread, so it must not use what training goes on to change. Every rank calls it."""
        self.wait()
        final = self.folder / f"{_PREFIX}{step:08d}"
        # The attempt's number keeps apart what a fenced attempt may still be writing.
        staging = self.folder / f".tmp-{final.name}-{self.attempt}"
        failure: BaseException | None = None
        try:
            if _rank() == 0:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
        except OSError as error:
            failure = error
        _barrier()
        saved = {"step": step, "score": score, "ranks": _ranks(), "job": state}
        numbers, hopeless = random_state(), threading.Event()

        def work() -> None:
            try:
                if failure is not None:
                    raise failure
                self._write(staging, final, write, saved, numbers, hopeless)
            except BaseException as error:
                writing.error = error

        thread = threading.Thread(target=work, name=f"checkpoint-{step}", daemon=True)
        writing = _Writing(step, final, thread, hopeless=hopeless)
        self._writing = writing
        writing.thread.start()
        return final

    def _write(
        self,
        staging: Path,
        final: Path,
        write: Callable[[Path], None],
        saved: dict[str, Any],
        numbers: Any,
        hopeless: threading.Event,
    ) -> None:
        rank = _rank()
        notes = staging.with_name(f"{staging.name}.notes")
        try:
            write(staging)
            torch.save(numbers, staging / f"random-{rank:05d}.pt")
            if rank > 0:
                notes.mkdir(exist_ok=True)
                (notes / f"{rank:05d}").touch()
                return
            _await_notes(notes, _ranks(), hopeless)
            write_json(staging / _STATE, saved)
            write_manifest(staging, kind="Checkpoint", name=final.name, metrics={"step": saved["step"]})
            self.before_publish()
            publish(staging, final)
        except BaseException:
            if rank == 0:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            if rank == 0:
                shutil.rmtree(notes, ignore_errors=True)
        kept = self._prune(saved["step"])
        self.published(final, kept)

    def busy(self) -> bool:
        """Whether this process is still writing."""
        return self._writing is not None and self._writing.thread.is_alive()

    def failed(self) -> bool:
        """Whether this process could not write its part; `wait` says why."""
        return self._writing is not None and self._writing.error is not None

    def wait(self) -> None:
        """Until the checkpoint being written is complete on all ranks. Every rank calls it.

        Raises CheckpointError on every rank when one could not write; the previous checkpoints are intact then.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        # Rank 0 is done only when the others are: they come first, and tell it when it waits in vain.
        if _rank() > 0:
            writing.thread.join()
        said = _first_error(writing.error if _rank() > 0 else None)
        if said is not None:
            writing.hopeless.set()
        writing.thread.join()
        said = said or _first_error(writing.error)
        if isinstance(writing.error, QedError):
            raise writing.error
        if said is not None:
            raise CheckpointError(
                f"checkpoint of step {writing.step} could not be written to {self.folder} ({said}); the one before is "
                "intact. Free space on the run's volume or give it more, then start the run again"
            ) from writing.error

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, the same on every rank; torn ones are passed over with a warning."""
        found: list[Checkpoint | None] = [self._find() if _rank() == 0 else None]
        if _ranks() > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _find(self) -> Checkpoint | None:
        for folder in reversed(self.complete()):
            try:
                verify(folder)
                return Checkpoint(folder, step_of(folder), _saved(folder)["job"])
            except (ArtifactError, OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is passed over: %s", folder.name, error)
        return None

    def restore_random_state(self, checkpoint: Checkpoint) -> None:
        """Put this rank's random generators where they were; with another number of ranks, make them anew."""
        if _saved(checkpoint.folder)["ranks"] == _ranks():
            set_random_state(torch.load(checkpoint.folder / f"random-{_rank():05d}.pt", weights_only=False))
        else:
            seed_generators(checkpoint.step, _rank())

    def sweep(self) -> None:
        """Remove what crashed attempts left half-written, and put back a checkpoint that one was about to replace. Call
        once, on start, from rank 0."""
        if self.folder.is_dir():
            for old in self.folder.glob(f".old-{_PREFIX}*-*"):
                final = self.folder / old.name.removeprefix(".old-").rpartition("-")[0]
                if not final.exists() and (old / "it").is_dir():
                    os.replace(old / "it", final)
            for leftover in (*self.folder.glob(".tmp-*"), *self.folder.glob(".old-*")):
                shutil.rmtree(leftover, ignore_errors=True)

    def complete(self) -> list[Path]:
        """Folders of the checkpoints that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdigit())

    def _prune(self, newest: int) -> list[Path]:
        """Keep the last and the best up to `newest`, and say which: any above it was passed over at the start, since it
        does not verify."""
        folders = self.complete()
        mine = [folder for folder in folders if step_of(folder) <= newest]
        kept = set(mine[-self.keep_last :])
        if self.keep_best:
            scores = [(_score(folder), step_of(folder), folder) for folder in mine]
            best = sorted((score, step, folder) for score, step, folder in scores if score is not None)
            kept |= {folder for _, _, folder in best[-self.keep_best :]}
        for folder in folders:
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        return sorted(kept)


def step_of(folder: Path) -> int:
    """The optimizer step of a checkpoint's folder."""
    return int(folder.name.removeprefix(_PREFIX))


def _saved(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads((folder / _STATE).read_text())
    return saved


def _score(folder: Path) -> float | None:
    try:
        score: float | None = _saved(folder).get("score")
    except (OSError, ValueError):
        return None
    return None if score is None or math.isnan(score) else score  # what is no number is neither best nor worst


def _await_notes(notes: Path, ranks: int, hopeless: threading.Event) -> None:
    """Until every rank but this one has left its note, or it is hopeless. A rank that dies takes the gang down."""
    for rank in range(1, ranks):
        while not (notes / f"{rank:05d}").is_file():
            if hopeless.wait(_NOTICE):
                raise OSError("another rank could not write its part")


def _first_error(mine: BaseException | None) -> str | None:
    """What went wrong on the first rank where something did. Collective."""
    said = None if mine is None else str(mine) or type(mine).__name__
    if _ranks() == 1:
        return said
    errors: list[str | None] = [None] * _ranks()
    dist.all_gather_object(errors, said)
    return next((error for error in errors if error is not None), None)


def seed_generators(seed: int, rank: int) -> None:
    """Start this rank's random generators (dropout draws from them), each rank at numbers of its own."""
    number = (seed * 100_003 + rank) % 2**32
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(number)


def random_state() -> dict[str, Any]:
    """Where this process's random generators are."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put this process's random generators where `random_state` found them."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _barrier() -> None:
    if _ranks() > 1:
        dist.barrier()
