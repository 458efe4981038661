"""Reasoning cache: turns of solving, each from the problem and a summary of what came before.

A turn's length is bounded by the model's context, the whole work is not. Source: the reasoning cache of QED-Nano
(arXiv 2604.04898), 3 turns there.
"""

from __future__ import annotations

from qednano.api.scaffold import ReasoningCache as Options
from qednano.evals.scaffolds.interface import Alone, Solution, Stop, stop_of
from qednano.evals.scaffolds.steps import go_on, solve, summarise
from qednano.evals.tree import BranchFailed, Node, Reply


class ReasoningCache(Alone):
    """The last turn's proof is the answer; a turn that fails or is cut off leaves the last whole one."""

    def __init__(self, options: Options) -> None:
        self._turns = options.turns

    async def solve(self, node: Node) -> Solution:
        """Turns one after another."""
        work, whole, summary = await solve(node, "turn-0"), None, None
        for turn in range(1, self._turns):
            whole = _better(whole, work)
            try:
                summary = await summarise(node, work, summary, f"summary-{turn}")
                work = await go_on(node, summary, f"turn-{turn}")
            except BranchFailed as failure:
                node.note(f"the cache ends before turn {turn}: {failure}")
                return Solution(whole, stop_of(failure, Stop.ROUNDS))
        return Solution(_better(whole, work), Stop.ANSWERED)


def _better(before: Reply | None, now: Reply) -> Reply:
    return now if before is None or (now.text.strip() and not now.cut_off) or before.cut_off else before
