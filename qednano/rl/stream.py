"""The sample stream between the actor (publishes whole groups) and the trainer (consumes them in order).

`FileStream` is the embedded default: one JSON file per group in `<run>/stream/`, named by its position.
A group is written under a temporary name and hard-linked to its position, so a reader never sees a torn
file and two publishers can never take one position. What was decided (published or discarded) is remembered
by group id, also after the files are gone, so publishing is idempotent and a restarted actor goes on where
its predecessor stopped.

This module knows nothing of problems, graders or tensors.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qednano.errors import DataError

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Sample:
    """One completion: token ids and behaviour log-probs exactly as the rollout server gave them.

    `logprobs[i]` is the log-probability of `completion_ids[i]` under the sampling distribution (temperature
    and top-p applied), by the weights of versions `version_start..version_end`. `reward` is score/7 after
    shaping. `reference` holds a served reference policy's log-probs of the same tokens, if there is one.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    reward: float
    version_start: int
    version_end: int
    finish_reason: str
    reference: list[float] = field(default_factory=list)

    @property
    def oldest_version(self) -> int:
        """The older of its two versions: a trainer that resumed goes back, so the end may be before the start."""
        return min(self.version_start, self.version_end)


@dataclass(frozen=True)
class Group:
    """All samples of one problem drawn together: the unit in which advantages are computed."""

    id: str
    problem_id: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def version(self) -> int:
        """The oldest weight version any token of the group was sampled with."""
        return min((s.oldest_version for s in self.samples), default=0)


class SampleStream(Protocol):
    """A durable, ordered, exactly-once stream of groups: one publisher, one consumer.

    Positions are opaque to both, and greater for what was published later. Methods block; a stream that is down for
    good raises Unavailable.
    """

    def publish(self, group: Group) -> str:
        """Append the group and return its position; a group id already decided is not written again."""
        ...

    def discard(self, group_id: str) -> None:
        """Remember that this group was decided against (zero variance, too stale), so a restart skips it."""
        ...

    def decided(self) -> set[str]:
        """Ids of all groups ever published or discarded, by this process or one before it."""
        ...

    def backlog(self) -> tuple[int, int]:
        """How many published groups the consumer hasn't taken yet, and how many it holds for its next step."""
        ...

    def consume(
        self, after: str | None, stop: threading.Event, timeout: float | None = None, held: int = 0
    ) -> tuple[str, Group] | None:
        """The next group after `after`, in publish order; waits for it.

        None when `stop` is set or `timeout` seconds passed. Going back (a trainer resumed from an older
        checkpoint) is fine as long as those groups haven't been acknowledged. `held` is how many groups the consumer
        keeps for its next step, which the publisher counts as ahead of what it starts.
        """
        ...

    def acknowledge(self, position: str) -> None:
        """Everything up to and including `position` is in a checkpoint: forget samples, remember ids."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class FileStream:
    """A stream in one folder; see `SampleStream`."""

    def __init__(self, run_dir: Path | str) -> None:
        self.folder = Path(run_dir) / "stream"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._acknowledged_log = self.folder / "acknowledged.log"
        self._discarded_log = self.folder / "discarded.log"
        self._taken = self.folder / "TAKEN"
        self._last_taken: str | None = None
        self._lock = threading.Lock()
        self._decided: dict[str, str] | None = None  # group id -> position, "" when discarded
        self._known = 0  # the newest position whose group is among them

    # -- publisher -------------------------------------------------------------------------------------------

    def publish(self, group: Group) -> str:
        """Append the group and return its position; a group id already decided is not written again."""
        with self._lock:
            while True:
                newest = _sequence(self.last_published())
                if newest > self._known:  # another publisher has been here
                    self._decided = None
                decided = self._load_decided()
                if group.id in decided:
                    return decided[group.id]
                if self._write(group, newest + 1):
                    decided[group.id], self._known = _position(newest + 1), newest + 1
                    return decided[group.id]

    def discard(self, group_id: str) -> None:
        """Remember that this group was decided against (zero variance, too stale), so a restart skips it."""
        with self._lock:
            decided = self._load_decided()
            if group_id not in decided:
                _append_lines(self._discarded_log, [group_id])
                decided[group_id] = ""

    def decided(self) -> set[str]:
        """Ids of all groups ever published or discarded, by this process or one before it."""
        with self._lock:
            return set(self._load_decided())

    def last_published(self) -> str | None:
        """The newest position, or None before the first publish; still known when its file is gone."""
        newest = max(self._sequence_numbers(), default=0)
        newest = max(newest, self._acknowledged())
        return _position(newest) if newest else None

    def depth(self) -> int:
        """How many published groups the consumer hasn't taken yet."""
        return max(0, _sequence(self.last_published()) - self.taken())

    def taken(self) -> int:
        """How many groups the consumer has taken, over all its lives; falls when it goes back to a checkpoint."""
        return max(self._acknowledged(), _sequence(_read_text(self._taken).partition(" ")[0]))

    def held(self) -> int:
        """How many groups the consumer keeps for the step that it gathers or works on; stale ones don't count."""
        return _sequence(_read_text(self._taken).partition(" ")[2])

    def backlog(self) -> tuple[int, int]:
        """Groups that wait for the consumer, and those that it holds."""
        depth = self.depth()
        return depth, self.held()  # in this order: a group that moves between the two counts twice, never not at all

    # -- consumer --------------------------------------------------------------------------------------------

    def consume(
        self, after: str | None, stop: threading.Event, timeout: float | None = None, held: int = 0
    ) -> tuple[str, Group] | None:
        """The next group after `after`, in publish order; waits for it."""
        self._mark_taken(f"{after or _position(0)} {held}")
        wanted = _position(max(_sequence(after), self._acknowledged()) + 1)
        path = self.folder / f"{wanted}.json"
        deadline = None if timeout is None else time.monotonic() + timeout
        while not stop.is_set():
            try:
                group = decode(path.read_bytes(), str(path))
                self._mark_taken(f"{wanted} {held + 1}")
                return wanted, group
            except FileNotFoundError:
                if deadline is not None and time.monotonic() >= deadline:
                    return None
                stop.wait(POLL_SECONDS)
        return None

    def acknowledge(self, position: str) -> None:
        """Everything up to and including `position` is in a checkpoint: forget samples, remember ids."""
        upto, done = _sequence(position), self._acknowledged()
        present = [n for n in sorted(self._sequence_numbers()) if n <= upto]
        fresh = [n for n in present if n > done]
        paths = {n: self.folder / f"{_position(n)}.json" for n in present}
        # Ids first, files second: a crash between the two leaves files behind, which the next call removes.
        _append_lines(
            self._acknowledged_log,
            [f"{_position(n)} {decode(paths[n].read_bytes(), str(paths[n])).id}" for n in fresh],
        )
        for path in paths.values():
            path.unlink(missing_ok=True)
        for leftover in self.folder.glob(".*.tmp"):
            if _sequence(leftover.name[1:].split(".")[0]) <= upto:
                leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held."""

    # -- the folder ------------------------------------------------------------------------------------------

    def _write(self, group: Group, number: int) -> bool:
        """Whether the group is at that position now; False when another publisher has taken it."""
        position = _position(number)
        temporary = self.folder / f".{position}.{uuid.uuid4().hex}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(encode(group))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, self.folder / f"{position}.json")
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _sequence_numbers(self) -> list[int]:
        names = (entry.name for entry in os.scandir(self.folder))
        return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]

    def _acknowledged(self) -> int:
        lines = _read_lines(self._acknowledged_log, tail=True)
        return _sequence(lines[-1].split(" ", 1)[0]) if lines else 0

    def _load_decided(self) -> dict[str, str]:
        if self._decided is None:
            self._known = _sequence(self.last_published())
            decided = dict.fromkeys(_read_lines(self._discarded_log), "")
            for number in self._sequence_numbers():
                path = self.folder / f"{_position(number)}.json"
                try:
                    decided[decode(path.read_bytes(), str(path)).id] = _position(number)
                except FileNotFoundError:  # acknowledged meanwhile: its id is in the log read below
                    continue
            for line in _read_lines(self._acknowledged_log):
                position, group_id = line.split(" ", 1)
                decided[group_id] = position
            self._decided = decided
        return self._decided

    def _mark_taken(self, mark: str) -> None:
        if mark == self._last_taken:
            return
        temporary = self.folder / f".taken-{os.getpid()}"
        temporary.write_text(mark)
        os.replace(temporary, self._taken)  # no fsync: it only guides back-pressure and may be lost
        self._last_taken = mark


def _position(number: int) -> str:
    return f"{number:012d}"


def _sequence(position: str | None) -> int:
    return int(position) if position and position.isdigit() else 0


def encode(group: Group) -> str:
    """The group as JSON."""
    return json.dumps(asdict(group), separators=(",", ":"), allow_nan=False)


def decode(data: bytes, where: str) -> Group:
    """The group of that JSON. DataError names where it lies when it is none."""
    try:
        raw: Any = json.loads(data)
        return Group(raw["id"], raw["problem_id"], [Sample(**sample) for sample in raw["samples"]])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} is not a group of samples ({error}); remove it and restart") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _read_lines(path: Path, tail: bool = False) -> list[str]:
    """Complete lines of an append-only log (`tail`: only those near its end); a torn line is left out."""
    try:
        with open(path, "rb") as file:
            if tail:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")[:-1]
    return [line.decode() for line in lines if line]


def _append_lines(path: Path, lines: list[str]) -> None:
    """Append whole lines durably. A torn line left by a crash is cut off first: nobody has read it."""
    if not lines:
        return
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - (len(tail) - (tail.rfind(b"\n") + 1)))
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())
