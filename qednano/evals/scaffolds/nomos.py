"""Nomos: many solutions scored once, the best consolidated to those that agree, then a knock-out tournament.

Defaults are QED-Nano's: 16 solutions; the perfect ones if there are at least 8, else the top 12.
"""

from __future__ import annotations

from qednano.api.scaffold import Nomos as Options
from qednano.evals.scaffolds.interface import Alone, Solution, Stop
from qednano.evals.scaffolds.steps import Candidate, agreeing, reviewed, solve, tournament
from qednano.evals.tree import Node


class Nomos(Alone):
    """Scores choose who takes part, judges choose who wins; ties are drawn by seeded lot."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def solve(self, node: Node) -> Solution:
        """The winner of the tournament."""
        branches = [self._scored(node.child(f"solution-{number}")) for number in range(self._options.solutions)]
        candidates = await node.all(branches, "solutions")
        node.random("ties").shuffle(candidates)
        candidates.sort(key=lambda candidate: -candidate.mean)  # stable: equal scores stay in drawn order
        perfect = [candidate for candidate in candidates if candidate.mean >= 1]
        kept = perfect if len(perfect) >= self._options.perfect else candidates[: self._options.top]
        proofs = [candidate.proof for candidate in kept]
        if len(proofs) > 1:
            proofs = await agreeing(node, proofs, "consolidate")
        return Solution(await tournament(node, proofs), Stop.ANSWERED)

    async def _scored(self, node: Node) -> Candidate:
        return await reviewed(node, await solve(node), 1, "score")
