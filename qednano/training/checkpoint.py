"""Checkpoints that are complete or absent, kept few, and found again by verifying them.

A checkpoint is a folder ``checkpoints/step-00000123`` closed by a manifest. All ranks write into one staging folder;
rank 0 closes and renames it once everybody is done. A full disk or a crash at any point leaves the previous ones.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from qednano.artifacts import publish, verify, write_json, write_manifest
from qednano.errors import ArtifactError, CheckpointError

log = logging.getLogger(__name__)
_STATE, _PREFIX = "state.json", "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, the optimizer step, and the job's own state (data position and so on)."""

    folder: Path
    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. `before_publish` may raise (fencing) just before one becomes visible."""

    def __init__(self, run_dir: Path, *, keep_last: int = 2, before_publish: Callable[[], None] = lambda: None) -> None:
        self.folder = run_dir / "checkpoints"
        self.keep_last = keep_last
        self.before_publish = before_publish

    def save(self, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
        """Write a checkpoint: `write` puts this rank's files into the given folder. Every rank calls it.

        Raises CheckpointError when anything can't be written; the previous checkpoints are intact then.
        """
        final = self.folder / f"{_PREFIX}{step:08d}"
        staging = self.folder / f".tmp-{final.name}"
        try:
            if _rank() == 0:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
            _barrier()
            write(staging)
            torch.save(_random_state(), staging / f"random-{_rank():05d}.pt")
            _barrier()
            if _rank() == 0:
                write_json(staging / _STATE, state)
                write_manifest(staging, kind="Checkpoint", name=final.name, metrics={"step": step})
                self.before_publish()
                publish(staging, final)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(
                f"checkpoint of step {step} could not be written to {self.folder} ({error}); the one before is intact. "
                "Free space on the run's volume or give it more, then start the run again"
            ) from error
        if _rank() == 0:
            self._prune(step)
        _barrier()
        return final

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, the same on every rank; torn ones are passed over with a warning."""
        found: list[Checkpoint | None] = [self._find() if _rank() == 0 else None]
        if _ranks() > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _find(self) -> Checkpoint | None:
        for folder in reversed(self._complete_names()):
            try:
                verify(folder)
                state = json.loads((folder / _STATE).read_text())
                return Checkpoint(folder, int(folder.name.removeprefix(_PREFIX)), state)
            except (ArtifactError, OSError, ValueError) as error:
                log.warning("checkpoint %s is passed over: %s", folder.name, error)
        return None

    def restore_random_state(self, checkpoint: Checkpoint) -> None:
        """Put this rank's random generators where they were."""
        _set_random_state(torch.load(checkpoint.folder / f"random-{_rank():05d}.pt", weights_only=False))

    def sweep(self) -> None:
        """Remove what crashed attempts left half-written. Call once, on start, from rank 0."""
        if self.folder.is_dir():
            for leftover in (*self.folder.glob(".tmp-*"), *self.folder.glob(".old-*")):
                shutil.rmtree(leftover, ignore_errors=True)

    def _complete_names(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdigit())

    def _prune(self, newest: int) -> None:
        """Keep the last ones up to `newest`: any above it was passed over at the start, since it does not verify."""
        names = self._complete_names()
        kept = [folder for folder in names if int(folder.name.removeprefix(_PREFIX)) <= newest][-self.keep_last :]
        for folder in names:
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _random_state() -> dict[str, Any]:
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
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
