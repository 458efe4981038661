"""Proofs that people have scored, from files and Hub datasets of the shapes that are usual in this field."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from qednano.api.benchmarks import GRADED
from qednano.api.grader_evaluation import GradedColumns, GradedProofs
from qednano.data.columns import Record, content_id
from qednano.data.files import Files
from qednano.data.schema import ProblemRow
from qednano.errors import DataError
from qednano.evals import hub_rows
from qednano.grading.interface import FULL_SCORE

USUAL: dict[str, tuple[str, ...]] = {
    "problem": ("problem", "Problem"),
    "problem_id": ("problem_id", "Problem ID", "problem_idx", "id"),
    "proof": ("proof", "Response", "model_solution", "response"),
    "max_score": ("max_score", "max_points_judge_1", "max_points"),
    "rubric": ("rubric", "Grading guidelines", "marking_scheme", "grading_scheme"),
    "reference": ("reference", "reference_solution", "Solution", "sample_solution"),
    "answer": ("known_answer", "Short Answer", "answer"),
    "author": ("author", "model", "generator", "model_name"),
}
"""The names by which a column is found that the spec leaves out; the first that a record has is taken."""

USUAL_SCORES = (("score",), ("Points",), ("expert_rating",), ("points_judge_1", "points_judge_2"))
_MATHARENA = "points_judge_1"  # such rows have the proof in `answer`, and the scheme in the first judge's details
_DETAILS = "grading_details_judge_1"
_SHOWN = 20


@dataclass(frozen=True)
class GradedProof:
    """One proof with its human score, 0..7. `id` depends on nothing but problem, proof and author."""

    id: str
    problem: ProblemRow
    proof: str
    human: float
    author: str = ""


def proofs_of(spec: GradedProofs, path: Path | None, run_dir: Path) -> list[GradedProof]:
    """The proofs that the spec names; `path` is the resolved file of a uri. Rows that nobody scored are left out.

    Raises DataError that names the row and what is wrong with it, or that there is none.
    """
    pins = run_dir / "graded-commit.json"
    if spec.known is not None:
        found = hub_rows.records(hub_rows.known_sources(GRADED[spec.known], spec.revision), pins)
    elif spec.hub is not None:
        found = hub_rows.records([spec.hub], pins)
    else:
        assert path is not None, "a uri is resolved before the job starts"
        found = Files(field="graderEvaluation.data.uri").records([str(path)])
    return read(found, spec.columns, spec.max_score, spec.limit)


def read(
    found: Iterable[Record], columns: GradedColumns, max_score: int = FULL_SCORE, limit: int = 0
) -> list[GradedProof]:
    """Records as proofs, the first `limit` of them (0: all); equal ones get ids of their own."""
    proofs: list[GradedProof] = []
    seen: dict[str, int] = {}
    for record in found:
        if limit and len(proofs) == limit:
            break
        proof = _proof(_Taker(record, columns), max_score)
        if proof is None:
            continue
        seen[proof.id] = seen.get(proof.id, 0) + 1
        if seen[proof.id] > 1:
            proof = GradedProof(f"{proof.id}-{seen[proof.id]}", proof.problem, proof.proof, proof.human, proof.author)
        proofs.append(proof)
    if not proofs:
        raise DataError("graderEvaluation.data has no proof with a human score; there is nothing to compare with")
    return proofs


@dataclass(frozen=True)
class _Taker:
    record: Record
    columns: GradedColumns

    @property
    def values(self) -> Mapping[str, Any]:
        return self.record.values

    def column(self, role: str) -> str | None:
        named: str | None = getattr(self.columns, role)
        if named is None:
            usual = USUAL[role]
            if _MATHARENA in self.values:
                usual = {"proof": ("answer",), "answer": ()}.get(role, usual)
            return next((name for name in usual if self.values.get(name) is not None), None)
        self.require(named, role)
        return named

    def require(self, name: str, role: str) -> None:
        if name not in self.values:
            there = ", ".join(map(repr, list(self.values)[:_SHOWN]))
            where = f"graderEvaluation.data.columns.{to_camel(role)}"
            raise DataError(f"{self.record.where} has no {name!r}, which {where} names (there is: {there})")

    def text(self, role: str) -> str:
        name = self.column(role)
        value = None if name is None else self.values[name]
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    def scores(self) -> list[float]:
        """What people gave, without those that gave nothing."""
        names = self.columns.score
        for name in names:
            self.require(name, "score")
        if not names:
            names = list(next((usual for usual in USUAL_SCORES if usual[0] in self.values), ()))
            if not names:
                there = ", ".join(map(repr, list(self.values)[:_SHOWN]))
                raise DataError(f"{self.record.where} has no human score: name it in columns.score (there is: {there})")
        return [number for name in names if (number := self.number(name)) is not None]

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise DataError(f"{self.record.where}: {name!r} is {value!r}, which is no score")
        return number


def _proof(take: _Taker, max_score: int) -> GradedProof | None:
    scores = take.scores()
    if not scores:
        return None
    problem = take.text("problem")
    if not problem.strip():
        raise DataError(f"{take.record.where} has no problem: name its column in graderEvaluation.data.columns.problem")
    if take.column("proof") is None:
        raise DataError(f"{take.record.where} has no proof: name its column in graderEvaluation.data.columns.proof")
    full = take.column("max_score")
    most = (take.number(full) if full is not None else None) or float(max_score)
    human = sum(scores) / len(scores)
    if not 0 <= human <= most:
        raise DataError(
            f"{take.record.where}: the human score is {human:g}, outside of 0..{most:g}: "
            "set graderEvaluation.data.maxScore"
        )
    proof, author = take.text("proof"), take.text("author")
    row = ProblemRow(
        id=take.text("problem_id") or content_id(problem),
        problem=problem,
        rubric=take.text("rubric") or _scheme(take.values.get(_DETAILS)) or None,
        reference=take.text("reference") or None,
        answer=take.text("answer") or None,
    )
    digest = hashlib.sha256(json.dumps([row.id, problem, proof, author]).encode()).hexdigest()[:16]
    return GradedProof(f"{row.id}/{digest}", row, proof, FULL_SCORE * human / most, author)


def _scheme(details: Any) -> str:
    """The scheme as a judge's details repeat it, without what the judge said."""
    if not isinstance(details, list):
        return ""
    parts = [item for item in details if isinstance(item, dict) and item.get("grading_scheme_desc")]
    return "\n".join(
        f"{item.get('title', '')} ({item.get('max_points', '?')} points): {item['grading_scheme_desc']}"
        for item in parts
    )
