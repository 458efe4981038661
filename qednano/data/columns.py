"""What a source's columns mean: one record, as its file has it, becomes one row of the schema.

A column that the spec does not name is looked for by the names that are usual in this field, so the files of
FineProofs-SFT and FineProofs-RL, of the known benchmarks, and those that this project writes load as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from qednano.api.proofdataset import Columns
from qednano.data.schema import Candidate, ProblemRow
from qednano.data.split import normalised
from qednano.errors import DataError

USUAL = {
    "problem": ("problem", "Problem"),
    "id": ("id", "Problem ID", "problem_id"),
    "solution": ("solutions", "solution", "proof"),
    "reasoning": ("reasoning", "reasoning_content"),
    "score": ("scores", "gemini-3-pro-grade"),
    "answer": ("answer", "Short Answer"),
    "rubric": ("rubric", "rubrics", "Grading guidelines", "marking_scheme"),
    "reference": ("reference", "reference_solution", "Solution"),
    "difficulty": ("difficulty",),
    "mean_reward": ("mean_reward", "reward_mean", "qwen3-4b-thinking-reward@128"),
    "attempts": ("attempts", "num_rewards"),
    "source": ("source",),
}
"""The names by which a column is found that the spec leaves out; the first that a record has is taken."""

_USUAL_META = ("category", "competition", "Category", "Level")
_SHOWN = 20  # names of columns in an error


@dataclass(frozen=True)
class Record:
    """One record as the source has it, and where: `rows.jsonl line 17`."""

    where: str
    values: Mapping[str, Any]


def row_of(record: Record, columns: Columns, source: str = "") -> ProblemRow:
    """One record as a row of the schema. Raises DataError that names the place and the column.

    Without an id the row is named by its problem's content. `source` is the name of the spec's source; it is in the
    row's meta as `from`, beside the place (`where`) and further columns.
    """
    take = _Taker(record, columns)
    problem = take.text("problem")
    if problem is None or not problem.strip():
        name = columns.problem or USUAL["problem"][0]
        raise DataError(
            f"{record.where} has no {name!r}: name the column that holds the problem in columns.problem "
            f"(there is: {_there(record)})"
        )
    solutions, reasoning, scores = _proofs(take)
    return ProblemRow(
        id=take.text("id") or content_id(problem),
        problem=problem,
        solutions=solutions,
        answer=take.text("answer"),
        rubric=take.text("rubric"),
        reference=take.text("reference"),
        difficulty=take.whole("difficulty"),
        source=take.text("source") or source or record.where,
        meta=_meta(record, columns, source),
        reasoning=reasoning,
        scores=scores,
        candidates=_candidates(record),
        pass_rate=_share(record.values.get("pass_rate")),
        mean_reward=_share(take.value("mean_reward")),
        attempts=take.whole("attempts"),
    )


def content_id(problem: str) -> str:
    """An id that says nothing but what the problem is."""
    return "p-" + hashlib.sha256(normalised(problem).encode()).hexdigest()[:16]


def _there(record: Record) -> str:
    return ", ".join(map(repr, list(record.values)[:_SHOWN]))


@dataclass(frozen=True)
class _Taker:
    """Takes values out of one record by their role."""

    record: Record
    columns: Columns

    def name(self, role: str) -> str:
        """The column of a role, for messages."""
        return getattr(self.columns, role) or next(
            (name for name in USUAL[role] if name in self.record.values), USUAL[role][0]
        )

    def value(self, role: str) -> Any:
        named = getattr(self.columns, role)
        values = self.record.values
        if named == "":
            return None
        if named is None:
            return next((values[name] for name in USUAL[role] if values.get(name) is not None), None)
        if named not in values:
            raise DataError(
                f"{self.record.where} has no {named!r}, which columns.{to_camel(role)} names "
                f"(there is: {_there(self.record)})"
            )
        return values[named]

    def text(self, role: str) -> str | None:
        """The value as text; numbers are written out, and structures (a rubric, say) as JSON."""
        value = self.value(role)
        if value is None or isinstance(value, str):
            return value or None
        if role == "problem":
            raise self.error(role, f"is {type(value).__name__}, not text")
        if isinstance(value, int | float):
            return str(value)
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)

    def whole(self, role: str) -> int:
        """A whole number; 0 where there is none, as for a level that is a word."""
        value = self.value(role)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        return value if isinstance(value, int) and 0 <= value < 2**31 else 0

    def several(self, role: str, kind: str, read: Callable[[Any], Any]) -> list[Any]:
        """One value or a list of them, each as `read` makes it, which raises ValueError."""
        value = self.value(role)
        if value is None or value == "":
            return []
        try:
            return [read(item) for item in (value if isinstance(value, list) else [value])]
        except ValueError:
            raise self.error(role, f"is neither {kind} nor a list of {kind}s") from None

    def error(self, role: str, said: str) -> DataError:
        return DataError(f"{self.record.where}: {self.name(role)!r} {said}")


def _string(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError
    return value


def _grade(value: Any) -> float | None:
    """A number, also as text (CSV has no other); None for one that is unknown."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    return number if math.isfinite(number) else None


def _share(value: Any) -> float | None:
    try:
        number = _grade(value)
    except ValueError:
        return None
    return number if number is not None and 0 <= number <= 1 else None


def _proofs(take: _Taker) -> tuple[list[str], list[str], list[float | None]]:
    """Proofs, and the thinking and the grade of each; blank proofs go, with what belongs to them."""
    solutions = take.several("solution", "text", _string)
    reasoning = take.several("reasoning", "text", _string)
    # The grades of FineProofs-RL are those of a model's attempts, whose texts it doesn't have.
    scores = take.several("score", "number", _grade) if solutions else []
    for role, values in (("reasoning", reasoning), ("score", scores)):
        if values and len(values) != len(solutions):
            raise take.error(role, f"has {len(values)} values for {len(solutions)} solutions")
    kept = [number for number, solution in enumerate(solutions) if solution.strip()]
    return tuple([values[number] for number in kept] if values else [] for values in (solutions, reasoning, scores))  # type: ignore[return-value]


def _candidates(record: Record) -> list[Candidate]:
    """As a ProofDataset of this project has them; there is no other."""
    found = record.values.get("candidates")
    try:
        return [Candidate(**item) for item in found] if isinstance(found, list) else []
    except TypeError:
        return []


def _meta(record: Record, columns: Columns, source: str) -> str:
    found: dict[str, Any] = {}
    before = record.values.get("meta")
    if isinstance(before, str):  # a file of ours: what was known of the row stays known
        try:
            parsed = json.loads(before)
        except ValueError:
            parsed = None
        found |= parsed if isinstance(parsed, dict) else {}
    for name in columns.meta:
        if name not in record.values:
            raise DataError(f"{record.where} has no {name!r}, which columns.meta names (there is: {_there(record)})")
    for name in (*_USUAL_META, *columns.meta):
        if record.values.get(name) not in (None, ""):
            found[name.lower() if name in _USUAL_META else name] = record.values[name]
    if source:
        found |= {"from": source, "where": record.where}
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str)
