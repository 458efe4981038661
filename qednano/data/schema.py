"""The one row that every consumer of problems reads: SFT, the RL actor and the evaluation alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qednano.errors import DataError

CANDIDATE = pa.struct(
    [
        pa.field("proof", pa.string(), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("votes", pa.list_(pa.float64()), nullable=False),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("solutions", pa.list_(pa.string()), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("rubric", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("difficulty", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("meta", pa.string(), nullable=False),
        pa.field("reasoning", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float64()), nullable=False),
        pa.field("candidates", pa.list_(CANDIDATE), nullable=False),
        pa.field("pass_rate", pa.float64()),
        pa.field("mean_reward", pa.float64()),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """A proof that waits to be selected, its thinking apart. `score` is 0..7 from `votes`, None as long as ungraded."""

    proof: str
    reasoning: str = ""
    model: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    score: float | None = None
    votes: list[float] = field(default_factory=list)

    @property
    def cut_off(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason == "length"

    @property
    def disagreement(self) -> float:
        """The difference between its highest and its lowest grading, in points."""
        return max(self.votes) - min(self.votes) if self.votes else 0.0


@dataclass(frozen=True)
class ProblemRow:
    """One problem. `solutions` are proofs to learn from, `reference` the official one; rubric, meta are JSON texts.

    `reasoning[i]` is the thinking before `solutions[i]` and `scores[i]` its grade (0..7); both lists may be empty.
    `pass_rate` (share of passes) and `mean_reward` (mean score / 7), 0..1, are a model's in so many `attempts`.
    """

    id: str
    problem: str
    solutions: list[str] = field(default_factory=list)
    answer: str | None = None
    rubric: str | None = None
    reference: str | None = None
    difficulty: int = 0
    source: str = ""
    meta: str = "{}"
    reasoning: list[str] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    pass_rate: float | None = None
    mean_reward: float | None = None
    attempts: int = 0

    def __post_init__(self) -> None:
        if any(isinstance(item, dict) for item in self.candidates):  # as files have them
            candidates = [Candidate(**item) if isinstance(item, dict) else item for item in self.candidates]
            object.__setattr__(self, "candidates", candidates)

    @property
    def characters(self) -> int:
        """About how much memory and disk it takes."""
        texts = [self.problem, self.reference or "", self.rubric or "", *self.solutions, *self.reasoning]
        return sum(map(len, texts)) + sum(len(item.proof) + len(item.reasoning) for item in self.candidates)


_NAMES = [item.name for item in fields(ProblemRow)]


def to_table(rows: Sequence[ProblemRow]) -> pa.Table:
    """The rows as an Arrow table of SCHEMA."""
    values = [vars(row) | {"candidates": [vars(item) for item in row.candidates]} for row in rows]
    return pa.Table.from_pylist(values, schema=SCHEMA)


def read_rows(path: Path | str) -> Iterator[ProblemRow]:
    """The rows of one split, a batch at a time: a .parquet file of SCHEMA, or a .jsonl file with the same field names.

    Raises DataError that names the file, and the line and field where there is one.
    """
    path = Path(str(path).removeprefix("file://"))
    if not path.is_file():
        raise DataError(f"{path} doesn't exist: give a .parquet or .jsonl file of problems")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    else:
        raise DataError(f"{path} is not a .parquet or .jsonl file")


def _read_parquet(path: Path) -> Iterator[ProblemRow]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} can't be read as Parquet: {error}") from None
    with file:
        present = [name for name in _NAMES if name in file.schema_arrow.names]
        missing = {"id", "problem"} - set(present)
        if missing:
            raise DataError(f"{path} has no column {sorted(missing)[0]!r}: it is not a split of a ProofDataset")
        for batch in file.iter_batches(batch_size=1024, columns=present):
            for values in batch.to_pylist():
                yield ProblemRow(**values)


def _read_jsonl(path: Path) -> Iterator[ProblemRow]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row_of(line, f"{path} line {number}")


def _row_of(line: str, where: str) -> ProblemRow:
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise DataError(f"{where} is not a JSON object")
    for name in ("id", "problem"):
        if not isinstance(values.get(name), str) or not values[name]:
            raise DataError(f"{where} has no {name!r}")
    return ProblemRow(**{name: values[name] for name in _NAMES if name in values})
