"""A budget in tokens and money, kept while many requests are in flight.

A request begins only if what is spent, what those in flight are expected to cost and what it is expected to cost itself
are within the budget. So the overshoot is at most what the requests in flight cost beyond expectation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from qednano.errors import QedError
from qednano.llm.chat import ChatAnswer, ChatModel, ChatParams, Message
from qednano.metrics import LLM_BUDGET_SPENT

_ZERO = Decimal(0)


class BudgetSpent(QedError):
    """The next request would go beyond the budget; nothing was sent."""

    reason = "BudgetSpent"


@dataclass(frozen=True)
class Spent:
    """Tokens (prompt and completion), and money for those answers whose price is known."""

    tokens: int = 0
    cost: Decimal = _ZERO
    unpriced: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.cost + other.cost, self.unpriced + other.unpriced)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.tokens - other.tokens, self.cost - other.cost, self.unpriced - other.unpriced)

    @classmethod
    def on(cls, answer: ChatAnswer) -> Spent:
        """What an answer cost; nothing when it came from the cache."""
        if answer.cached:
            return cls()
        tokens = answer.prompt_tokens + answer.completion_tokens
        return cls(tokens, answer.cost or _ZERO, int(answer.cost is None))


class Reservation:
    """A request's place in the budget. Set `spent` to what it did cost; what stays unset counts as nothing."""

    def __init__(self, expected: Spent) -> None:
        self.expected = expected
        self.spent = Spent()


class Budget:
    """At most `tokens` and at most `cost`; 0 is no limit. `spent`: what earlier attempts paid, by their rows.

    `role` is the label of the metric with the spent share; empty shows none.
    """

    def __init__(self, tokens: int = 0, cost: Decimal = _ZERO, *, spent: Spent | None = None, role: str = "") -> None:
        self.tokens, self.cost = tokens, cost
        self.spent = spent or Spent()
        self.in_flight = 0
        self._reserved = Spent()
        self._ended, self._ended_cost = 0, Spent()
        self._role = role
        self._settled = asyncio.Event()
        self._show()

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self.tokens or self.cost)

    @property
    def used(self) -> float:
        """Share of the budget that is spent, by the scarcer of tokens and money; 0 without a limit."""
        shares = [self.spent.tokens / self.tokens if self.tokens else 0.0]
        shares.append(float(self.spent.cost / self.cost) if self.cost else 0.0)
        return max(shares)

    @property
    def exhausted(self) -> bool:
        """Whether everything is spent."""
        return self.limited and self.used >= 1

    def tokens_left(self) -> int | None:
        """Tokens neither spent nor expected by those in flight; None without a limit."""
        return max(0, self.tokens - self.spent.tokens - self._reserved.tokens) if self.tokens else None

    def told(self) -> str:
        """What is spent of what, for people."""
        parts = []
        if self.tokens:
            parts.append(f"{self.spent.tokens} of {self.tokens} tokens")
        if self.cost:
            parts.append(f"{self.spent.cost:f} of {self.cost:f} in money")
        return " and ".join(parts) or "no limit"

    def expected(self, most: Spent) -> Spent:
        """What a request is expected to cost: the mean of those that ended here, before that `most`."""
        if not self._ended:
            return most
        return Spent(self._ended_cost.tokens // self._ended, self._ended_cost.cost / self._ended)

    @contextlib.asynccontextmanager
    async def reserve(self, expected: Spent) -> AsyncIterator[Reservation]:
        """Hold a place for a request while the block runs; set what it cost on the reservation.

        Waits while those in flight may leave enough. Raises BudgetSpent when they can't any more. An exception in the
        block or a cancellation settles whatever was set by then.
        """
        await self._fit(expected)
        place = Reservation(expected)
        try:
            yield place
        finally:  # without an await before the books are right: a cancellation can't leave a place taken
            self._reserved -= expected
            self.in_flight -= 1
            self.add(place.spent)
            if place.spent.tokens:
                self._ended += 1
                self._ended_cost += place.spent
            self._settled.set()
            self._settled = asyncio.Event()

    def add(self, spent: Spent) -> None:
        """Count what was paid outside a reservation."""
        self.spent += spent
        self._show()

    async def _fit(self, expected: Spent) -> None:
        while not self._fits(expected):
            if self.exhausted or not self.in_flight:
                raise BudgetSpent(f"the budget is spent: {self.told()}; raise it to go on")
            await self._settled.wait()
        self._reserved += expected
        self.in_flight += 1

    def _fits(self, expected: Spent) -> bool:
        if self.exhausted:
            return False
        total = self.spent + self._reserved + expected
        return (not self.tokens or total.tokens <= self.tokens) and (not self.cost or total.cost <= self.cost)

    def _show(self) -> None:
        if self._role and self.limited:
            LLM_BUDGET_SPENT.labels(self._role).set(min(1.0, self.used))


class Budgeted:
    """A model whose answers are paid from a budget; a ChatModel."""

    def __init__(self, model: ChatModel, budget: Budget) -> None:
        self._model, self.budget = model, budget

    @property
    def name(self) -> str:
        return self._model.name

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """The model's answer, counted; BudgetSpent before anything is sent when it can't be paid."""
        expected = self.budget.expected(Spent(params.max_tokens))
        async with self.budget.reserve(expected) as place:
            answer = await self._model.chat(messages, params)
            place.spent = Spent.on(answer)
        return answer
