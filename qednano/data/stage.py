"""What a stage is: the protocol that the pipeline drives, and the tally of what became of the rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qednano.data.schema import ProblemRow
from qednano.data.shards import Build

EXAMPLES = 5  # kept of each cause
_EXCERPT = 300  # characters of an example


@dataclass
class Tally:
    """What a stage did with the rows of one or more shards. Addable, JSON-able, and the same however it was cut."""

    rows_in: int = 0
    rows_out: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    log: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Tally:
        """What `to_json` made."""
        return cls(values["rows_in"], values["rows_out"], Counter(values["counts"]), values["examples"])

    def to_json(self) -> dict[str, Any]:
        """Everything but the log, sorted."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "counts": {cause: count for cause, count in sorted(self.counts.items()) if count},
            "examples": dict(sorted(self.examples.items())),
        }

    def drop(self, cause: str, row: ProblemRow, reason: str, **more: str) -> None:
        """Enter a dropped row: its cause is counted, and the row with what it was compared with goes to the report."""
        self.counts[f"dropped {cause}"] += 1
        entry = {"cause": cause, "id": row.id, "reason": reason, "problem": row.problem, **more}
        self.log.append(entry)
        kept = self.examples.setdefault(cause, [])
        if len(kept) < EXAMPLES:
            kept.append({name: text[:_EXCERPT] for name, text in entry.items() if name != "cause"})

    def add(self, other: Tally) -> None:
        """Take in the tally of the next shard; its log stays with the shard."""
        self.rows_in += other.rows_in
        self.rows_out += other.rows_out
        self.counts.update(other.counts)
        for cause, examples in other.examples.items():
            kept = self.examples.setdefault(cause, [])
            kept += examples[: EXAMPLES - len(kept)]


@dataclass(frozen=True)
class Place:
    """Where a stage stands: its path in the spec (`stages/3/generate`), its name in reports, and the run's seed.

    A stage that comes twice is named `filter` and `filter-2`.
    """

    path: str
    name: str
    seed: int = 0


@dataclass(frozen=True)
class StageWork:
    """What a stage may look at before it takes its first row.

    `rows` reads all rows of the stage before, as often as it is called, and `total` counts them. `folder` is the
    stage's own and is kept when the build is killed; `build` has the reporter, the fence, and the language models.
    """

    rows: Callable[[], Iterator[ProblemRow]]
    total: int
    folder: Path
    build: Build


class Stage(Protocol):
    """One stage: what it is called, what it must know of all rows beforehand, and what it does with each."""

    name: str

    def prepare(self, work: StageWork) -> None:
        """Do what needs all rows, or what takes minutes a row. Called once a process, and only if rows are missing.

        It may be killed at any moment: what should survive goes to `work.folder`, and the next call goes on from there.
        """

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row as it goes on, or None to drop it, which it enters in the tally. Fast, and the same on each call.

        `position` counts the rows of this stage from 0, in the order in which it takes them.
        """


@runtime_checkable
class Reordering(Protocol):
    """A stage that takes the rows in an order of its own."""

    def reordered(self, work: StageWork) -> Iterator[ProblemRow]:
        """The rows of `work` in the order in which `apply` gets them, the same on each call; after `prepare`."""


def with_meta(row: ProblemRow, **more: Any) -> ProblemRow:
    """The row with more in its meta."""
    meta = json.loads(row.meta or "{}")
    return replace(row, meta=json.dumps({**meta, **more}, sort_keys=True, ensure_ascii=False))
