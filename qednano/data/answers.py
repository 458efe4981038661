"""What models have answered, kept on disk so that nothing is asked or paid twice, however often a build is killed.

`<folder>/part-000001.jsonl` are rows, one for each piece of work that ended: its key, what came of it, what it cost.
Each process writes a part of its own and never touches an older one, so a torn last line stays what it is, a line that
nobody reads. Of one key the last row counts; the cost of a stage is the sum over all of its rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from qednano import artifacts
from qednano.errors import DataError

_SYNC_SECONDS = 1.0  # between two writes that also survive a loss of power
_TOTALS = "usage.json"


@dataclass
class Usage:
    """What answers cost. `cost` is money for those with a known price; `unpriced` counts the others."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = field(default_factory=Decimal)
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: Usage) -> None:
        """Take in what other answers cost."""
        self.answers += other.answers
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cost += other.cost
        self.unpriced += other.unpriced

    def headlines(self) -> dict[str, float]:
        """The run's headline metrics; no cost where a price is unknown."""
        found = {"tokens/in": float(self.prompt_tokens), "tokens/out": float(self.completion_tokens)}
        return found if self.unpriced else found | {"cost": float(self.cost)}

    def to_json(self) -> dict[str, Any]:
        """JSON-able; money as text, so that sums stay exact."""
        return {**vars(self), "cost": f"{self.cost:f}"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Usage:
        """What `to_json` made."""
        return cls(**{**values, "cost": Decimal(values["cost"])})


@dataclass(frozen=True)
class Recorded:
    """How one piece of work ended: with a value, or parked for a cause (then the value is None)."""

    key: str
    row: str  # id of the row it belongs to
    value: dict[str, Any] | None
    usage: Usage
    cause: str = ""
    detail: str = ""

    @property
    def parked(self) -> bool:
        return self.value is None


def key_of(*parts: str) -> str:
    """A name for a piece of work that depends on nothing but the texts it is about."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()[:32]


class Answers:
    """The answers of one stage; use as a context manager to append. Only places are held in memory, not answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.usage = Usage()
        self._places: dict[str, tuple[Path, int]] = {}
        self._parked: set[str] = set()
        self._file: BinaryIO | None = None
        self._synced = 0.0
        for path in sorted(folder.glob("part-*.jsonl")):
            for start, row in _whole_rows(path):
                self._enter(row, path, start)

    def __enter__(self) -> Answers:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("part-*.jsonl")))
        while self._file is None:
            number += 1
            try:
                self._file = (self.folder / f"part-{number:06d}.jsonl").open("xb")
            except FileExistsError:  # an attempt that is about to be fenced off took it
                continue
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._sync()
        self._file.close()
        self._file = None
        artifacts.write_json(self.folder / _TOTALS, self.usage.to_json())

    def done(self, key: str) -> bool:
        """Whether this work ended with a value."""
        return key in self._places and key not in self._parked

    def get(self, key: str) -> Recorded | None:
        """How this work ended the last time, read from disk; None if it never did."""
        place = self._places.get(key)
        if place is None:
            return None
        with place[0].open("rb") as file:
            file.seek(place[1])
            return _recorded(json.loads(file.readline()))

    def append(self, recorded: Recorded) -> None:
        """Keep it. When this returns, the death of the process can't undo it."""
        assert self._file is not None, "Answers are appended to inside `with`"
        row = {**vars(recorded), "usage": recorded.usage.to_json()}
        start = self._file.tell()
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode(errors="surrogatepass") + b"\n")
        self._file.flush()
        self._enter(row, Path(self._file.name), start)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _enter(self, row: dict[str, Any], path: Path, start: int) -> None:
        key = row["key"]
        self._places[key] = (path, start)
        (self._parked.add if row["value"] is None else self._parked.discard)(key)
        self.usage.add(Usage.from_json(row["usage"]))


def _whole_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Where each row of a part starts, in bytes, and the row; a torn last line is no row."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                _recorded(row)
            except (ValueError, KeyError, TypeError, ArithmeticError):
                raise DataError(f"{path} line {number} is not a row of answers; remove that line") from None
            yield start, row
            start += len(line)


def _recorded(row: dict[str, Any]) -> Recorded:
    return Recorded(**{**row, "usage": Usage.from_json(row["usage"])})


def answers_of(run_dir: Path) -> Path:
    """The folder of a run's answers, with one folder for each stage; it stays when the dataset is complete."""
    return run_dir / "answers"


def usage_of(folder: Path, without: str = "") -> Usage:
    """What the stages of a run have spent, by the totals that each left; `folder` is that of the run's answers."""
    total = Usage()
    for path in sorted(folder.glob(f"*/{_TOTALS}")):
        if path.parent.name != without:
            total.add(Usage.from_json(json.loads(path.read_text(encoding="utf-8"))))
    return total
