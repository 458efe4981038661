"""Static agent: a fixed graph of steps, each run as soon as those it needs are done.

approaches ─► solve ─► verify ─► improve ─► … ┐
           ─► solve ─► verify ─► improve ─► … ┼─► select or merge
           ─► solve ─► …                      ┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qednano.api.scaffold import Combine
from qednano.api.scaffold import StaticAgent as Options
from qednano.evals.scaffolds.interface import Alone, Solution, Stop, stop_of
from qednano.evals.scaffolds.steps import Candidate, approaches, best, merge, refine, reviewed, solve, tournament
from qednano.evals.tree import BranchFailed, Node, settle


@dataclass(frozen=True)
class Step:
    """A node of a graph: what it needs by name, and what it does with their results."""

    needs: tuple[str, ...]
    do: Callable[..., Awaitable[Any]]


Graph = Mapping[str, Step]


async def run_graph(graph: Graph) -> dict[str, Any | BranchFailed]:
    """Result of each step, in the graph's order, which must put each step behind those that it needs.

    A step whose needs failed fails with the first of them.
    """
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def run(step: Step) -> Any:
        needed = await settle([_wait(tasks[name]) for name in step.needs])
        for item in needed:
            if isinstance(item, BranchFailed):
                raise item
        return await step.do(*needed)

    for name, step in graph.items():
        missing = [need for need in step.needs if need not in tasks]
        if missing:
            raise ValueError(f"step {name} needs {missing[0]}, which is not before it")
        tasks[name] = asyncio.create_task(run(step))
    try:
        outcomes = await settle(_wait(task) for task in tasks.values())
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return dict(zip(tasks, outcomes, strict=True))


async def _wait(task: asyncio.Task[Any]) -> Any:
    return await asyncio.shield(task)


class StaticAgent(Alone):
    """Branches that fail are left out; without readable approaches all branches start from the bare problem."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def solve(self, node: Node) -> Solution:
        """The graph, then one answer of its branches."""
        ends = [f"branch-{number}" for number in range(self._options.approaches)]
        outcomes = await run_graph(self._graph(node, ends))
        for name in ends:
            if isinstance(outcomes[name], BranchFailed):
                node.note(f"{name} failed: {outcomes[name]}")
        candidates: list[Candidate] = [outcomes[name] for name in ends if isinstance(outcomes[name], Candidate)]
        if not candidates:
            first: BranchFailed = outcomes[ends[0]]
            raise BranchFailed(str(first), first.status)
        return await self._combine(node, candidates)

    def _graph(self, node: Node, ends: list[str]) -> dict[str, Step]:
        async def ideas() -> tuple[list[str], str]:
            try:
                return await approaches(node, len(ends))
            except BranchFailed as failure:
                node.note(f"no approaches: {failure}")
                return [], ""

        graph = {"approaches": Step((), ideas)}
        for number, name in enumerate(ends):
            graph[name] = Step(("approaches",), self._branch(node.child(name), number))
        return graph

    def _branch(self, node: Node, number: int) -> Callable[[tuple[list[str], str]], Awaitable[Candidate]]:
        async def run(found: tuple[list[str], str]) -> Candidate:
            ideas, path = found
            idea = ideas[number] if number < len(ideas) else ""
            candidates = [Candidate(await solve(node, approach=idea, inputs=[path] if idea else []))]
            for step in range(self._options.improvements):
                place = node.child(f"improvement-{step}")
                try:
                    candidates[-1] = await reviewed(place, candidates[-1].proof, 1)
                    if candidates[-1].mean >= 1:
                        break
                    proof = await refine(place, candidates[-1], candidates[-1].reviews, "improve")
                    candidates.append(Candidate(proof))
                except BranchFailed as failure:
                    node.note(f"{node.path} stops improving: {failure}")
                    break
            unseen = candidates[-1]
            return unseen if not unseen.reviews else best(candidates)

        return run

    async def _combine(self, node: Node, candidates: list[Candidate]) -> Solution:
        accepted = [candidate for candidate in candidates if candidate.mean >= 1]
        stop = Stop.ACCEPTED if accepted else Stop.ANSWERED
        proofs = [candidate.proof for candidate in accepted or candidates]
        if len(proofs) > 1 and self._options.combine is Combine.MERGE:
            try:
                return Solution(await merge(node, proofs, "merge"), stop)
            except BranchFailed as failure:
                node.note(f"the branches were not merged: {failure}")
                stop = stop_of(failure, stop)
        return Solution(await tournament(node, proofs), stop)
