"""Adaptive: tokens go where they raise the expected score most.

Each problem's proofs are tested one vote at a time, and a proof is accepted, dropped or tested on as the calibrated
votes and the price of tokens say (`testing`). Samples of a cohort look at one another every few steps: what all votes
taught of verifier and solver (`belief`) is shared, and the price of tokens is raised until what all are expected to
spend fits what is left. A solved or hopeless problem stops early; an open one gets what the others leave.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qednano.api.scaffold import Adaptive as Options
from qednano.evals.scaffolds.belief import Knowledge, Progress, believe, first_guess, learn
from qednano.evals.scaffolds.interface import Solution, Solve, Stop, stop_of
from qednano.evals.scaffolds.steps import Candidate, improve, refine, solve, verify
from qednano.evals.scaffolds.testing import REFINE, STOP, VOTE, WRITE, Costs, Table, table
from qednano.evals.tree import BranchFailed, Node

WRITING, REFINING, VOTING = "write", "refine", "vote"
_CONSIDERED = 4  # likeliest proofs of a problem that a step may be about
_DOUBLINGS = 16  # how far the price of tokens may rise over its first value
_NEWS = 0.2  # share of more steps after which a cohort learns again


@dataclass(frozen=True)
class Plan:
    """What a cohort goes by until its samples meet again. `price`: score (0 to 1) that a token must be worth.

    `base` is the price with no budget to keep: who stops at `price` but not at `base` waits for what others leave.
    `final`: nothing has been done since the last meeting, so nothing will be.
    """

    learned: Learned
    price: float
    base: float
    going_on: frozenset[str]
    final: bool = False

    @property
    def knowledge(self) -> Knowledge:
        """What votes have taught."""
        return self.learned.knowledge

    @property
    def table(self) -> Table:
        """What each state is worth at this price."""
        return self.learned.table(self.price)

    @property
    def costs(self) -> Costs:
        """Of each step, in score."""
        return self.learned.costs(self.price)


class Learned:
    """What a cohort knew at one time, with the tables that follow from it, each solved once. `tokens`: of a step."""

    def __init__(self, knowledge: Knowledge, tokens: dict[str, float], options: Options, steps: int) -> None:
        self.knowledge, self.tokens, self.steps = knowledge, tokens, steps
        self._failing, self._votes = knowledge.failing(options.max_proofs), options.max_votes
        self._tables: dict[float, Table] = {}

    def costs(self, price: float) -> Costs:
        """Of each step, in score."""
        return Costs(*(price * self.tokens[kind] for kind in (WRITING, REFINING, VOTING)))

    def table(self, price: float) -> Table:
        """What each state is worth at a price of tokens."""
        if price not in self._tables:
            known = self.knowledge
            self._tables[price] = table(known.verifier, known.keep, self._failing, self.costs(price), self._votes)
        return self._tables[price]


@dataclass
class State:
    """One sample: its proofs with their votes, in two views of the same order."""

    node: Node
    progress: Progress
    candidates: list[Candidate] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)  # votes asked for, readable or not


class Cohort:
    """Samples that share what they learn and a budget of tokens (0: none); each is told the plan when all have come."""

    def __init__(self, options: Options, samples: int, tokens: int) -> None:
        self._options, self._tokens, self._active = options, tokens, samples
        self._first = first_guess(float(options.pass_if_right), float(options.pass_if_wrong), float(options.solve_rate))
        self._learned: Learned | None = None
        self._raised = 0  # doublings of the price at the last meeting
        self._spent = -1  # by then
        self._members: dict[str, Progress] = {}
        self._waiting: dict[str, asyncio.Future[Plan]] = {}

    async def meet(self, progress: Progress) -> Plan:
        """Wait for all samples that are still at work."""
        self._members[progress.key] = progress
        self._waiting[progress.key] = asyncio.get_running_loop().create_future()
        future = self._waiting[progress.key]
        self._decide()
        return await future

    def leave(self, progress: Progress) -> None:
        """A sample is done."""
        self._members[progress.key] = progress
        self._active -= 1
        self._waiting.pop(progress.key, None)
        self._decide()

    def _decide(self) -> None:
        if not self._waiting or len(self._waiting) < self._active:
            return
        members = [self._members[key] for key in sorted(self._members)]
        plan = self.plan(members, sorted(self._waiting))
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(plan)

    def plan(self, members: Sequence[Progress], waiting: Sequence[str]) -> Plan:
        """What all know so far, and the lowest price of tokens at which those that wait fit what is left."""
        learned = self._learn(members)
        price = base = 1.0 / (self._options.worth * learned.tokens[WRITING])
        everyone = frozenset(waiting)
        if not self._tokens:
            return Plan(learned, price, base, everyone)
        spent = sum(sum(item.tokens.values()) for item in members)
        final, self._spent = spent == self._spent, spent
        open_ones = [item for item in members if item.key in everyone]
        for item in open_ones:
            believe(item, learned.knowledge)
        left = self._tokens - spent
        before: tuple[Plan, dict[str, float]] | None = None
        for raised in range(max(0, self._raised - 1), _DOUBLINGS):  # it falls by one at a time: tables take time
            plan = Plan(learned, base * 2**raised, base, everyone, final)
            needs = {item.key: _expected_tokens(item, plan) for item in open_ones}
            if sum(needs.values()) <= left:
                self._raised = raised
                if before is None or 2 * sum(needs.values()) > left:
                    return plan
                plan, needs = before  # alike, they would all stop at this price: some go on at the last one
                return replace(plan, going_on=frozenset(_affordable(open_ones, needs, left)))
            before = plan, needs
        return replace(plan, going_on=frozenset())

    def _learn(self, members: Sequence[Progress]) -> Learned:
        """What all know by now. It is thought over when there is a fifth more to learn from: that takes time."""
        steps = sum(sum(item.calls.values()) for item in members)
        before = self._learned
        if before is not None and steps < (1 + _NEWS) * before.steps:
            return before
        knowledge = learn(members, self._first, self._first if before is None else before.knowledge)
        tokens = {kind: _mean_tokens(members, kind) for kind in (WRITING, REFINING, VOTING)}
        tokens[WRITING] = tokens[WRITING] or 1.0
        tokens[REFINING] = tokens[REFINING] or tokens[WRITING]
        tokens[VOTING] = tokens[VOTING] or tokens[WRITING] / 2  # a guess until the first vote
        self._learned = Learned(knowledge, tokens, self._options, steps)
        return self._learned


def _mean_tokens(members: Sequence[Progress], kind: str) -> float:
    calls = sum(item.calls.get(kind, 0) for item in members)
    return sum(item.tokens.get(kind, 0) for item in members) / calls if calls else 0.0


def _expected_tokens(progress: Progress, plan: Plan) -> float:
    solved = plan.table
    number = progress.likeliest
    failed, tested = solved.place(progress.rate) - 1, progress.proofs[number]
    votes = tested.passed, tested.votes
    return solved.look(solved.spent, failed, _floor(progress, number), progress.best, votes) / plan.price


def _floor(progress: Progress, number: int) -> float:
    """Belief in the best proof that would be left if one turned out wrong: those of its own line would be, too."""
    line = progress.proofs[number].line
    return max((proof.belief for proof in progress.proofs if proof.line != line), default=0.0)


def _affordable(open_ones: Sequence[Progress], needs: dict[str, float], left: float) -> list[str]:
    """Those whose tokens promise most, as many as there are tokens for."""
    hopeful = sorted(open_ones, key=lambda item: (-(1 - item.best) * item.rate / max(1.0, needs[item.key]), item.key))
    found = []
    for item in hopeful:
        left -= needs[item.key]
        if left < 0:
            break
        found.append(item.key)
    return found


class Adaptive:
    """The answer is the likeliest proof. `tokens`: what a sample may spend, as the mean of a cohort; 0 is no limit."""

    def __init__(self, options: Options, tokens: int = 0) -> None:
        self._options, self._tokens = options, tokens
        self.cohort = options.cohort

    def begin(self, samples: int) -> Solve:
        """A cohort of so many samples, which share what they learn and their tokens."""
        cohort = Cohort(self._options, samples, self._tokens * samples)

        async def run(node: Node) -> Solution:
            state = State(node, Progress("\x1f".join(map(str, node.sample.key))))
            try:
                return await self._solve(state, cohort)
            finally:
                cohort.leave(state.progress)

        return run

    async def _solve(self, state: State, cohort: Cohort) -> Solution:
        await self._write(state, None)
        try:
            for meeting in itertools.count():
                plan = await cohort.meet(state.progress)
                if state.progress.key not in plan.going_on:
                    if plan.final or not plan.going_on:
                        return _answer(state, Stop.BUDGET)
                    continue
                for _ in range(min(self._options.steps, 1 + meeting // 4)):  # at first there is much to learn
                    believe(state.progress, plan.knowledge)
                    action, number = self._decide(state, plan)
                    if action == STOP and plan.price > plan.base and not plan.final:
                        action, _ = self._decide(state, replace(plan, price=plan.base))
                        if action != STOP:
                            break  # too dear for now
                    if action == STOP:
                        return _answer(state, Stop.ACCEPTED if state.progress.best >= 0.5 else Stop.GAVE_UP)
                    if action == VOTE:
                        await self._vote(state, number)
                    else:
                        await self._write(state, number if action == REFINE else None)
        except BranchFailed as failure:
            state.node.note(f"stopped early: {failure}")
            return _answer(state, stop_of(failure, Stop.ROUNDS))

    def _decide(self, state: State, plan: Plan) -> tuple[int, int]:
        """The action with the highest expected score less its price, and the proof that it is about."""
        progress, proofs, known, solved = state.progress, state.progress.proofs, plan.knowledge, plan.table
        failed = solved.place(progress.rate)
        best_value, choice = progress.best + 1e-9, (STOP, 0)
        more = len(proofs) < self._options.max_proofs
        if more:
            value = (
                solved.look(solved.value, failed, _floor(progress, progress.likeliest), progress.rate)
                - plan.costs.write
            )
            if value > best_value:
                best_value, choice = value, (WRITE, 0)
        hopeful = sorted(range(len(proofs)), key=lambda number: (-proofs[number].belief, number))[:_CONSIDERED]
        for number in hopeful:
            proof = proofs[number]
            if not state.candidates[number].proof.text.strip():
                continue
            if more:
                hope = proof.belief * known.keep + (1 - proof.belief) * progress.mended
                value = solved.look(solved.value, failed, _floor(progress, number), hope) - plan.costs.refine
                if value > best_value:
                    best_value, choice = value, (REFINE, number)
            if state.asked[number] < self._options.max_votes:
                value = _vote_value(progress, number, failed - 1, known, solved) - plan.costs.vote
                if value > best_value:
                    best_value, choice = value, (VOTE, number)
        return choice

    async def _write(self, state: State, source: int | None) -> None:
        name = f"proof-{len(state.candidates)}"
        if source is None:
            proof = await solve(state.node, name)
        else:
            refined = state.candidates[source]
            if refined.reviews:
                proof = await refine(state.node, refined, refined.harshest(2), name)
            else:
                proof = await improve(state.node, refined.proof, name)
        state.progress.count(WRITING if source is None else REFINING, proof.tokens)
        state.candidates.append(Candidate(proof))
        state.progress.add(source)
        state.asked.append(0)

    async def _vote(self, state: State, number: int) -> None:
        candidate, proof = state.candidates[number], state.progress.proofs[number]
        if not candidate.proof.text.strip():
            proof.votes += 1  # nothing was stated: as good as a vote against it, and free
            return
        name = f"vote-{number}-{state.asked[number]}"
        state.asked[number] += 1
        before = state.node.sample.spent.tokens
        try:
            review = await verify(state.node, candidate.proof, name)
        except BranchFailed as failure:
            if stop_of(failure, Stop.ROUNDS) is Stop.BUDGET:
                raise
            state.node.note(f"a vote was lost: {failure}")
            return
        finally:
            state.progress.count(VOTING, state.node.sample.spent.tokens - before)
        candidate.reviews.append(review)
        proof.votes += 1
        proof.passed += review.score >= self._options.pass_score


def _vote_value(progress: Progress, number: int, failed: float, known: Knowledge, solved: Table) -> float:
    """What is expected after one more vote on a proof."""
    proof, verifier = progress.proofs[number], known.verifier
    floor = _floor(progress, number)
    right, wrong = verifier.next_vote(proof.passed, proof.votes)
    chance = proof.belief * right + (1 - proof.belief) * wrong
    return sum(
        share
        * solved.look(
            solved.value,
            failed,
            floor,
            verifier.after(proof.belief, proof.passed, proof.votes, passed),
            (proof.passed + passed, proof.votes + 1),
        )
        for passed, share in ((True, chance), (False, 1 - chance))
    )


def _answer(state: State, stop: Stop) -> Solution:
    beliefs = [proof.belief for proof in state.progress.proofs]
    number = max(range(len(beliefs)), key=lambda item: (not state.candidates[item].proof.cut_off, beliefs[item], item))
    return Solution(state.candidates[number].proof, stop, beliefs[number])
