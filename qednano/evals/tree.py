"""One sample's tree of calls: where a scaffold asks its models, within a budget, every call recorded.

What a call is (its path, seed and key) depends on the spec and on earlier answers alone, never on time or process: so
recorded answers lead a scaffold along the very same way again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from qednano.data.schema import ProblemRow
from qednano.errors import QedError, Unavailable
from qednano.evals.calls import Call, Journal, SampleKey, Spent, Status, digest_of, request_key, seed_of
from qednano.evals.lanes import Lanes
from qednano.jsonl import writable
from qednano.llm.chat import ChatModel, ChatParams, Message
from qednano.llm.client import RequestRefused

T = TypeVar("T")
SOLVER, VERIFIER, SUMMARISER, JUDGE = "solver", "verifier", "summariser", "judge"
ROLES = (SOLVER, VERIFIER, SUMMARISER, JUDGE)


class BranchFailed(Exception):
    """A call, or all calls of a branch, gave nothing; the scaffold goes on without. `status` says why."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """Who takes a role: the model, what identifies it in keys, and how its answers are drawn."""

    model: ChatModel
    identity: str
    params: ChatParams


@dataclass(frozen=True)
class Limits:
    """What may be spent; 0 is no limit. Money is in the currency of the price table."""

    tokens: int = 0
    money: Decimal = Decimal(0)
    seconds: float = 0.0

    def over(self, spent: Spent, seconds: float) -> str:
        """Which limit is reached, empty when none is."""
        if self.tokens and spent.tokens >= self.tokens:
            return f"{spent.tokens} of {self.tokens} tokens are spent"
        if self.money and spent.money >= self.money:
            return f"{spent.money} of {self.money} are spent"
        if self.seconds and seconds >= self.seconds:
            return f"{seconds:.0f} of {self.seconds:.0f} seconds are over"
        return ""


@dataclass(frozen=True)
class Reply:
    """An answer, with the path of the call that gave it."""

    text: str
    reasoning: str
    finish_reason: str
    path: str
    tokens: int
    seed: int

    @property
    def cut_off(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason == "length"


@dataclass
class Bench:
    """What all samples of one evaluated model share: models by role, slots, the file of calls, the run's limits."""

    models: Mapping[str, Asked]
    lanes: Lanes
    journal: Journal
    run_seed: int = 0
    limits: Limits = field(default_factory=Limits)
    total: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    answered: Callable[[Call], None] = lambda call: None


class Sample:
    """The calls of one sample, recorded and live. `notes` says, a sentence each, what went wrong on the way."""

    def __init__(self, bench: Bench, model: str, problem: ProblemRow, index: int, age: int = 0) -> None:
        self.bench, self.problem, self.key, self.age = bench, problem, (model, problem.id, index), age
        self.recorded = {call.key: call for call in bench.journal.of(self.key)}
        self.spent, self.notes = Spent(), list[str]()
        self.unavailable: str = ""  # why a model did not answer, if one did not
        self._paths: set[str] = set()
        before = max((call.started + call.seconds for call in self.recorded.values()), default=0.0)
        self._began = bench.clock() - before

    @property
    def seconds(self) -> float:
        """Since the sample began, over all processes that worked on it."""
        return self.bench.clock() - self._began

    def note(self, sentence: str) -> None:
        """Keep what the reader of the result should know; once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def left(self) -> int | None:
        """Tokens that the sample's limit leaves; None without a limit."""
        limit = self.bench.limits.tokens
        return max(0, limit - self.spent.tokens) if limit else None

    async def ask(
        self, path: str, role: str, purpose: str, messages: Sequence[Message], inputs: Sequence[str], schema: Any
    ) -> Reply:
        """One answer, recorded or live. Raises BranchFailed."""
        if path in self._paths:
            raise ValueError(f"two calls of one sample have the path {path!r}; give each its own name")
        self._paths.add(path)
        asked = self.bench.models[role]
        _, problem, index = self.key
        seed = seed_of(self.bench.run_seed, problem, index, path)
        params = replace(asked.params, seed=seed, schema=schema)
        key = request_key(asked.identity, messages, params, path)
        call = self.recorded.get(key)
        if call is None or call.status is Status.FAILED:
            plain = [{"role": message["role"], "content": message["content"]} for message in messages]
            model, *_ = self.key
            call = Call(
                model, problem, index, len(self._paths) - 1, path, list(inputs), role, purpose, key, asked.identity,
                plain, Status.FAILED, seed=seed,
            )  # fmt: skip
            call = await self._live(call, asked, params)
        self.spent.add(call)
        if call.status is Status.ANSWERED:
            return Reply(call.text, call.reasoning, call.finish_reason, path, call.tokens, seed)
        if call.status is Status.FAILED:
            self.unavailable = call.error
        raise BranchFailed(f"{path}: {call.error}", call.status)

    async def _live(self, call: Call, asked: Asked, params: ChatParams) -> Call:
        if over := self._over():
            return self._keep(replace(call, status=Status.BUDGET, error=over, started=self.seconds))
        async with self.bench.lanes.slot(call.role, self.age):
            if over := self._over():
                return self._keep(replace(call, status=Status.BUDGET, error=over, started=self.seconds))
            started = self.seconds
            try:
                answer = await asked.model.chat(call.messages, params)
            except RequestRefused as error:
                return self._keep(replace(call, status=Status.REFUSED, error=str(error), started=started))
            except Unavailable as error:
                took = self.seconds - started
                return self._keep(replace(call, status=Status.FAILED, error=str(error), started=started, seconds=took))
            except QedError as error:
                if error.reason != "BudgetSpent":
                    raise
                return self._keep(replace(call, status=Status.BUDGET, error=str(error), started=started))
            return self._keep(
                replace(
                    call,
                    status=Status.ANSWERED,
                    text=writable(answer.text),
                    reasoning=writable(answer.reasoning),
                    finish_reason=answer.finish_reason,
                    prompt_tokens=answer.prompt_tokens,
                    completion_tokens=answer.completion_tokens,
                    cost=answer.cost,
                    seconds=round(self.seconds - started, 6),
                    started=round(started, 6),
                )
            )

    def _keep(self, call: Call) -> Call:
        self.bench.journal.append(call)
        self.bench.answered(call)
        return call

    def _over(self) -> str:
        own = self.bench.limits.over(self.spent, self.seconds)
        if own:
            return f"the sample's budget: {own}"
        run = self.bench.total.over(self.bench.journal.total, 0.0)
        return f"the run's budget: {run}" if run else ""


class Node:
    """A place in a sample's tree: what scaffolds ask through."""

    def __init__(self, sample: Sample, path: str = "") -> None:
        self.sample, self.path = sample, path

    @property
    def problem(self) -> ProblemRow:
        """The problem to solve."""
        return self.sample.problem

    def child(self, name: str) -> Node:
        """A place below this one; names are unique among siblings."""
        return Node(self.sample, self._below(name))

    async def ask(
        self,
        role: str,
        purpose: str,
        messages: Sequence[Message],
        *,
        name: str = "",
        inputs: Iterable[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Ask the model of `role`; `name` (absent: the purpose) is unique at this place. Raises BranchFailed."""
        path = self._below(name or purpose)
        return await self.sample.ask(path, role, purpose, messages, list(inputs), schema)

    def nonce(self, name: str) -> str:
        """128 bits for the marks of one question: as a proof can't guess them, and the same in each replay."""
        _, problem, index = self.sample.key
        return digest_of("nonce", self.sample.bench.run_seed, problem, index, self._below(name))[:32]

    def random(self, name: str) -> random.Random:
        """A generator for choices such as ties, seeded by the run and this place."""
        _, problem, index = self.sample.key
        return random.Random(seed_of("choice", self.sample.bench.run_seed, problem, index, self._below(name)))

    def note(self, sentence: str) -> None:
        """Keep a sentence for the reader of the result."""
        self.sample.note(sentence)

    async def all(self, branches: Iterable[Awaitable[T]], what: str, *, needed: int = 1) -> list[T]:
        """Run branches at once; what the failed ones cost is noted. Raises BranchFailed when fewer than `needed` work.

        Results keep the order of `branches`.
        """
        outcomes = await settle(branches)
        good: list[T] = [item for item in outcomes if not isinstance(item, BranchFailed)]
        bad = [item for item in outcomes if isinstance(item, BranchFailed)]
        if bad:
            self.note(f"{self.path or 'top'}: {len(bad)} of {len(outcomes)} {what} failed; the first: {bad[0]}")
        if len(good) < needed:
            raise BranchFailed(str(bad[0]) if bad else f"no {what}", bad[0].status if bad else Status.FAILED)
        return good

    def _below(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


async def settle(branches: Iterable[Awaitable[T]]) -> list[T | BranchFailed]:
    """Results and failed branches in order; any other exception cancels the rest and is raised."""
    tasks = [asyncio.ensure_future(_outcome(branch)) for branch in branches]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _outcome(branch: Awaitable[T]) -> T | BranchFailed:
    try:
        return await branch
    except BranchFailed as error:
        return error


__all__ = [
    "JUDGE", "ROLES", "SOLVER", "SUMMARISER", "VERIFIER", "Asked", "Bench", "BranchFailed", "Limits", "Node", "Reply",
    "Sample", "SampleKey", "settle",
]  # fmt: skip
