"""A stage's budget while many requests are in flight: what has been spent, and what those are expected to cost."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from qednano.api.data_stages import Budget
from qednano.data.answers import Answers, Usage


class Purse:
    """Lets a unit begin if what is spent, and what those in flight and this one are expected to cost, is within budget.

    The expectation is the mean of what ended in this attempt, before that a guess from above.
    """

    def __init__(self, budget: Budget, answers: Answers, guess: Usage) -> None:
        self.empty = False
        self._budget, self._answers = budget, answers
        self._guess = (Decimal(guess.tokens), guess.cost)
        self._begun = 0
        self._ended = 0
        self._before = (answers.usage.tokens, answers.usage.cost)
        self._change = asyncio.Condition()

    async def begin(self) -> bool:
        """Wait until the next unit can be paid; False if that will never be."""
        async with self._change:
            while not self.empty and not self._affordable():
                if self._begun == self._ended:
                    self.empty = True
                else:
                    await self._change.wait()
            if self.empty:
                self._change.notify_all()
                return False
            self._begun += 1
            return True

    async def end(self) -> None:
        """A unit that began has ended, and its cost is among the answers'."""
        async with self._change:
            self._ended += 1
            self._change.notify_all()

    def told(self) -> str:
        """What is spent of what, for people."""
        usage, budget = self._answers.usage, self._budget
        parts = []
        if budget.tokens:
            parts.append(f"{usage.tokens} of {budget.tokens} tokens")
        if budget.cost:
            parts.append(f"{usage.cost:f} of {budget.cost:f} in money")
        return " and ".join(parts)

    def _affordable(self) -> bool:
        waiting = self._begun - self._ended + 1
        usage, budget = self._answers.usage, self._budget
        tokens, cost = self._guess
        if self._ended:
            tokens = Decimal(usage.tokens - self._before[0]) / self._ended
            cost = (usage.cost - self._before[1]) / self._ended
        return (not budget.tokens or usage.tokens + waiting * tokens <= budget.tokens) and (
            not budget.cost or usage.cost + waiting * cost <= budget.cost
        )
