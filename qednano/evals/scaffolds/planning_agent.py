"""Planning agent: the model decides what is done next; the parts of the static agent are its tools.

Actions are JSON in the model's own answers, so any chat model can plan, with or without a tool-calling protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from qednano.api.scaffold import PlanningAgent as Options
from qednano.evals.calls import Status
from qednano.evals.scaffolds.interface import Alone, Solution, Stop, stop_of
from qednano.evals.scaffolds.steps import (
    Candidate,
    approaches,
    best,
    merge,
    refine,
    solve,
    tournament,
    verify,
)
from qednano.evals.tree import SOLVER, BranchFailed, Node, settle
from qednano.grading.parse import NoVerdict, parse_object
from qednano.llm import prompts

_LONGEST_REPORT = 4000  # characters of a review that the planner is told


class PlanningAgent(Alone):
    """Turns of a conversation; the answer is the proof that the model finishes with, else the best reviewed one."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def solve(self, node: Node) -> Solution:
        """Plan, act, report, until it finishes or its turns, calls or budget are over."""
        desk = Desk(node)
        question = prompts.render(
            "scaffolds/plan", problem=node.problem.problem, turns=self._options.turns, calls=self._options.calls
        )
        talk = [{"role": "user", "content": question}]
        stop, calls = Stop.ROUNDS, self._options.calls
        for turn in range(self._options.turns):
            place = node.child(f"turn-{turn}")
            try:
                plan = await place.ask(SOLVER, "plan", talk, inputs=desk.reported)
            except BranchFailed as failure:
                node.note(f"planning ended: {failure}")
                stop = stop_of(failure, stop)
                break
            actions, complaint = _actions(plan.text)
            finish = next((action for action in actions if action.get("tool") == "finish"), None)
            if finish is not None and str(finish.get("proof")) in desk.proofs:
                return Solution(desk.proofs[str(finish["proof"])].proof, Stop.ANSWERED)
            lines = [complaint] if complaint else await desk.act(place, actions[:calls])
            calls -= min(calls, len(actions))
            left = self._options.turns - turn - 1
            if not left or not calls:
                break
            report = prompts.render("scaffolds/report", lines=lines, turns=left, calls=calls)
            talk = [*talk, {"role": "assistant", "content": plan.text}, {"role": "user", "content": report}]
        if not desk.proofs:
            node.note("the planner made no proof; it was asked for one directly")
            return Solution(await solve(node, "last-solve"), stop)
        return Solution(best(list(desk.proofs.values())).proof, stop)


def _actions(text: str) -> tuple[list[Mapping[str, Any]], str]:
    """The actions of an answer, or why there are none."""
    try:
        stated = parse_object(text).get("actions")
    except NoVerdict as error:
        return [], f"Your answer was not understood: {error}. Answer with one JSON object and nothing else."
    actions = [item for item in stated if isinstance(item, dict)] if isinstance(stated, list) else []
    if not actions:
        return [], 'Your answer has no actions. Answer with one JSON object: {"thought": "...", "actions": [...]}.'
    return actions, ""


class Desk:
    """What the agent has so far: approaches and proofs by name, with reviews; and its tools."""

    def __init__(self, node: Node) -> None:
        self.proofs: dict[str, Candidate] = {}
        self.ideas: dict[str, tuple[str, str]] = {}
        self.reported: list[str] = []  # paths of calls that the last report told of
        self._node = node
        self._tools: dict[str, Callable[[Node, Mapping[str, Any]], Awaitable[Callable[[], str]]]] = {
            "approaches": self._approaches,
            "solve": self._solve,
            "verify": self._verify,
            "improve": self._improve,
            "merge": self._merge,
            "select": self._select,
        }

    async def act(self, place: Node, actions: list[Mapping[str, Any]]) -> list[str]:
        """Carry out actions at once and say, in their order, what came of each. Names are given in that order too."""
        self.reported = []
        outcomes = await settle(
            self._one(place.child(f"action-{number}"), action) for number, action in enumerate(actions)
        )
        lines = []
        for action, outcome in zip(actions, outcomes, strict=True):
            tool = str(action.get("tool"))[:40]
            if isinstance(outcome, BranchFailed):
                place.note(f"{place.path}: {tool} failed: {outcome}")
                lines.append(f"{tool} failed: {str(outcome)[:300]}")
            else:
                lines.append(outcome())
        return lines

    async def _one(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        tool = self._tools.get(str(action.get("tool")))
        if tool is None:
            known = ", ".join([*self._tools, "finish"])
            return lambda: f"There is no tool {str(action.get('tool'))[:40]!r}; there are {known}."
        return await tool(node, action)

    async def _approaches(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        wanted = action.get("count")
        count = wanted if isinstance(wanted, int) and not isinstance(wanted, bool) else 3
        texts, path = await approaches(node, min(8, max(1, count)))

        def keep() -> str:
            self.reported.append(path)
            names = []
            for text in texts:
                names.append(f"a{len(self.ideas) + 1}")
                self.ideas[names[-1]] = (text, path)
            return "\n".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))

        return keep

    async def _solve(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        idea, path = self.ideas.get(str(action.get("approach")), ("", ""))
        return self._new(await solve(node, approach=idea, inputs=[path] if path else []), "solve")

    async def _verify(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        name, candidate = self._named(action)
        review = await verify(node, candidate.proof, "verify")

        def keep() -> str:
            candidate.reviews.append(review)
            self.reported.append(review.path)
            return f"verify {name}: score {review.score} of 7. {review.text[:_LONGEST_REPORT]}"

        return keep

    async def _improve(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        _, candidate = self._named(action)
        return self._new(await refine(node, candidate, candidate.reviews, "improve"), "improve")

    async def _merge(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        return self._new(await merge(node, [item.proof for item in self._several(action)], "merge"), "merge")

    async def _select(self, node: Node, action: Mapping[str, Any]) -> Callable[[], str]:
        winner = await tournament(node, [item.proof for item in self._several(action)])
        name = next(name for name, item in self.proofs.items() if item.proof is winner)
        return lambda: f"select: {name} is the best of them"

    def _new(self, proof: Any, tool: str) -> Callable[[], str]:
        def keep() -> str:
            name = f"p{len(self.proofs) + 1}"
            self.proofs[name] = Candidate(proof)
            self.reported.append(proof.path)
            state = "cut off by the token limit" if proof.cut_off else f"{len(proof.text)} characters"
            return f"{tool}: the proof is {name} ({state})"

        return keep

    def _named(self, action: Mapping[str, Any]) -> tuple[str, Candidate]:
        name = str(action.get("proof"))[:40]
        if name not in self.proofs:
            raise BranchFailed(f"there is no proof {name!r}", Status.ANSWERED)
        return name, self.proofs[name]

    def _several(self, action: Mapping[str, Any]) -> list[Candidate]:
        names = action.get("proofs")
        found = (
            [self.proofs[name] for name in names if isinstance(name, str) and name in self.proofs]
            if isinstance(names, list)
            else []
        )
        if len(found) < 2:
            raise BranchFailed("proofs must name at least two proofs that there are", Status.ANSWERED)
        return found
