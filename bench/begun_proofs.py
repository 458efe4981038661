"""A grader for proofs over several turns: the tiny task's checker, but a hasty proof is worth less than one begun.

The checker gives 3 of 7 to a proof that factors without its grounds and 2 to two good first lines. Where a turn is too
short for a proof, that teaches first turns to be hasty, which no later turn can mend. Here skipping steps is worth 1.
"""

from __future__ import annotations

from qednano.data.schema import ProblemRow
from qednano.grading.interface import Grade
from qednano.tiny.checker import check

HASTY = 1
NAME = "bench.begun_proofs:BegunProofs"


class BegunProofs:
    """Scores 0 to 7, as `spec.grader.entryPoint`."""

    name = "begun-proofs"

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The checker's score, at most 1 where steps were skipped."""
        found = check(problem.problem, proof)
        skipped = any(deduction.startswith("steps skipped") for deduction in found.deductions)
        return Grade(min(found.score, HASTY) if skipped else found.score, found.error or "")

    async def close(self) -> None:
        """Nothing is open."""
