"""Verify and refine, as with DeepSeek-Math-V2 (arXiv 2511.22570): a pool of proofs, reviewed, the best ones refined.

Defaults are QED-Nano's: 4 proofs, 4 reviews each, 2 rounds, the best 4 refined with their 2 harshest reviews.
"""

from __future__ import annotations

from qednano.api.scaffold import VerifyRefine as Options
from qednano.evals.scaffolds.interface import Alone, Solution, Stop, stop_of
from qednano.evals.scaffolds.steps import Candidate, best, refine, reviewed, solve
from qednano.evals.tree import BranchFailed, Node


class VerifyRefine(Alone):
    """The answer is the proof with the best mean; a mean of full marks ends it at once."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def solve(self, node: Node) -> Solution:
        """Rounds one after another; all proofs of a round at once."""
        start = node.child("start")
        pool = await node.all(
            [self._first(start.child(f"proof-{number}")) for number in range(self._options.pool)], "proofs"
        )
        for number in range(self._options.rounds):
            if best(pool).mean >= 1:
                break
            chosen = sorted(pool, key=lambda candidate: -candidate.mean)[: self._options.refined]
            place = node.child(f"round-{number}")
            branches = [
                self._refined(place.child(f"proof-{index}"), candidate) for index, candidate in enumerate(chosen)
            ]
            try:
                pool += await place.all(branches, "refinements")
            except BranchFailed as failure:
                return Solution(best(pool).proof, stop_of(failure, Stop.ROUNDS))
        winner = best(pool)
        return Solution(winner.proof, Stop.ACCEPTED if winner.mean >= 1 else Stop.ROUNDS)

    async def _first(self, node: Node) -> Candidate:
        return await reviewed(node, await solve(node), self._options.verifications)

    async def _refined(self, node: Node, candidate: Candidate) -> Candidate:
        proof = await refine(node, candidate, candidate.harshest(self._options.reviews), "refine")
        return await reviewed(node, proof, self._options.verifications)
