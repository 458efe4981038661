"""Deterministic checkers as graders: exact, free and fast enough to run in the caller's thread."""

from __future__ import annotations

from dataclasses import asdict

from qednano.data.schema import ProblemRow
from qednano.errors import DataError
from qednano.grading.interface import Failure, Grade
from qednano.tiny.checker import check


class TinyDivisibility:
    """Grades the tiny task's proofs by its marking scheme; about 0.2 ms a proof."""

    name = "tiny-divisibility"

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The checker's score with one entry per checkpoint; no score for a problem that isn't of this task."""
        try:
            result = check(problem.problem, proof)
        except DataError as error:
            return Grade(None, str(error), failure=Failure.UNGRADABLE)
        details = {
            "checkpoints": [asdict(checkpoint) for checkpoint in result.checkpoints],
            "deductions": result.deductions,
        }
        return Grade(result.score, result.error or "complete and correct", details)

    async def close(self) -> None:
        """Nothing is held."""
