"""Self-check (after Huang and Yang, arXiv 2507.15855): solve, improve, then verify until it passes often in a row.

Defaults are QED-Nano's: at most 30 verifications, accepted after 5 passes in a row, given up after 10 failures in a
row; each failure is repaired with what was found.
"""

from __future__ import annotations

from qednano.api.scaffold import SelfCheck as Options
from qednano.evals.scaffolds.interface import Alone, Solution, Stop, stop_of
from qednano.evals.scaffolds.steps import Candidate, improve, refine, solve, verify
from qednano.evals.tree import BranchFailed, Node
from qednano.grading.interface import FULL_SCORE


class SelfCheck(Alone):
    """One proof at a time. The answer is the last one, or an earlier one that passed more often in a row."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def solve(self, node: Node) -> Solution:
        """Steps one after another."""
        proof, stop = await solve(node), Stop.ROUNDS
        try:
            proof = await improve(node, proof, "improve")
        except BranchFailed as failure:
            node.note(f"the first proof was not improved: {failure}")
        current = strongest = Candidate(proof)
        passes = failures = most = 0
        for number in range(self._options.checks):
            try:
                review = await verify(node, current.proof, f"check-{number}")
                if review.score == FULL_SCORE:
                    passes, failures = passes + 1, 0
                    if passes >= most:
                        strongest, most = current, passes
                    if passes == self._options.passes:
                        return Solution(current.proof, Stop.ACCEPTED)
                    continue
                passes, failures = 0, failures + 1
                if failures == self._options.failures:
                    stop = Stop.GAVE_UP
                    break
                current = Candidate(await refine(node, current, [review], f"repair-{number}"))
            except BranchFailed as failure:
                node.note(f"check {number} gave nothing: {failure}")
                stop = stop_of(failure, stop)
                if stop is Stop.BUDGET:
                    break
        return Solution(strongest.proof if most else current.proof, stop)
