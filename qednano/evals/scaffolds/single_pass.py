"""One question a sample: the problem as the user's turn, the answer as it comes."""

from __future__ import annotations

from qednano.evals.scaffolds.interface import Alone, Solution, Stop
from qednano.evals.scaffolds.steps import solve
from qednano.evals.tree import Node


class SinglePass(Alone):
    """Has no options."""

    async def solve(self, node: Node) -> Solution:
        """The one answer."""
        return Solution(await solve(node), Stop.ANSWERED)
