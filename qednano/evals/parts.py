"""Where the jobs of one evaluation keep what they have: a folder for each shard, one artifact of all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qednano.artifacts import check_fence, claim_attempt, write_json
from qednano.evals.calls import digest_of

_FENCE_SECONDS = 2.0


def shard_of(problem: str, shards: int) -> int:
    """The shard that evaluates a problem: by a hash of its id, so each process finds the same one."""
    return int(digest_of("shard", problem)[:8], 16) % shards


@dataclass(frozen=True)
class Part:
    """The folder of one shard: samples.jsonl, calls.jsonl, and marks of what is finished."""

    folder: Path

    @property
    def samples(self) -> Path:
        """Graded samples, appended."""
        return self.folder / "samples.jsonl"

    @property
    def calls(self) -> Path:
        """Calls, appended."""
        return self.folder / "calls.jsonl"

    def finish(self, contender: str) -> None:
        """Mark that all samples of a contender are done."""
        write_json(self.folder / f"finished-{contender}.json", {"time": time.time()})

    def finished(self, contender: str) -> bool:
        """Whether that is marked."""
        return (self.folder / f"finished-{contender}.json").is_file()

    def tell(self, numbers: dict[str, float]) -> None:
        """Leave progress for the shard that reports for all."""
        write_json(self.folder / "progress.json", numbers)

    def told(self) -> dict[str, float]:
        """What was left; nothing before the first time."""
        try:
            return dict(json.loads((self.folder / "progress.json").read_bytes()))
        except (OSError, ValueError):
            return {}


def parts(run_dir: Path, shards: int) -> list[Part]:
    """The parts of all shards."""
    return [Part(run_dir / "evaluation" / f"part-{number:02d}") for number in range(shards)]


class Fence:
    """Keeps an older process of the same shard from writing; looks at most every two seconds."""

    def __init__(self, part: Part) -> None:
        self._folder, self._attempt, self._next = part.folder, claim_attempt(part.folder), 0.0

    def __call__(self) -> None:
        """Raises Fenced when a newer process owns the folder."""
        now = time.monotonic()
        if now >= self._next:
            check_fence(self._folder, self._attempt)
            self._next = now + _FENCE_SECONDS


def rows_of(path: Path) -> Iterator[dict]:
    """The whole rows of a file of samples, one at a time."""
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)
