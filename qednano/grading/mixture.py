"""Several graders as one: the weighted mean of their scores, and no grade as soon as one of them has none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qednano.data.schema import ProblemRow
from qednano.grading.interface import Grade, Grader


@dataclass(frozen=True)
class Part:
    """One grader of a mixture with its weight, above 0."""

    grader: Grader
    weight: float


class Mixed:
    """Asks all parts at once."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = dict(parts)
        self.name = " and ".join(f"{name} ({part.grader.name})" for name, part in self.parts.items())

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The weighted mean; the first part without a grade says why there is none."""
        asked = [part.grader.grade(problem, proof, cut_off=cut_off) for part in self.parts.values()]
        grades = dict(zip(self.parts, await asyncio.gather(*asked), strict=True))
        details: dict[str, Any] = {"parts": {name: _shown(grade) for name, grade in grades.items()}}
        for name, grade in grades.items():
            if grade.score is None:
                return Grade(None, f"{name}: {grade.reason}", details, grade.failure)
        total = sum(part.weight for part in self.parts.values())
        score = sum(part.weight * (grades[name].score or 0.0) for name, part in self.parts.items()) / total
        return Grade(score, "; ".join(f"{name}: {grade.reason}" for name, grade in grades.items()), details)

    async def close(self) -> None:
        """Close all parts."""
        await asyncio.gather(*(part.grader.close() for part in self.parts.values()))


def _shown(grade: Grade) -> dict[str, Any]:
    return {"score": grade.score, "reason": grade.reason, **grade.details}
