"""Recursive self-aggregation (arXiv 2509.26626): a population of solutions, merged in blocks, round after round.

Defaults are QED-Nano's: 8 solutions, 3 rounds of blocks of 3 with each solution in 3 blocks, then pairwise choice.
"""

from __future__ import annotations

from collections.abc import Sequence

from qednano.api.scaffold import Rsa as Options
from qednano.evals.scaffolds.interface import Alone, Solution, Stop, stop_of
from qednano.evals.scaffolds.steps import merge, solve, tournament
from qednano.evals.tree import BranchFailed, Node, Reply


class Rsa(Alone):
    """Blocks are drawn anew in each round; a merge that fails leaves its first solution in place."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def solve(self, node: Node) -> Solution:
        """The winner of a knock-out among the last round."""
        start, stop = node.child("start"), Stop.ANSWERED
        branches = [solve(start, f"solve-{number}") for number in range(self._options.population)]
        population = await start.all(branches, "solutions")
        for number in range(self._options.rounds):
            if len(population) < 2:
                break
            place = node.child(f"round-{number}")
            order = list(range(len(population)))
            place.random("blocks").shuffle(order)
            blocks = [
                _block(population, order, start, min(self._options.block, len(population)))
                for start in range(len(population))
            ]
            try:
                merged = [merge(place, block, f"merge-{index}") for index, block in enumerate(blocks)]
                population = await place.all(merged, "merges")
            except BranchFailed as failure:
                stop = stop_of(failure, Stop.ROUNDS)
                break
        return Solution(await tournament(node, population), stop)


def _block(population: Sequence[Reply], order: Sequence[int], start: int, size: int) -> list[Reply]:
    """Neighbours on a ring of solutions in drawn order: each solution is in `size` of the blocks."""
    return [population[order[(start + step) % len(order)]] for step in range(size)]
