"""Asks models for many rows at once, and each piece of work once: what ended is in `Answers` before the next begins.

A row's stage is cut into units, each with a key that depends on its texts alone. A unit ends with a value, or it is
parked: kept apart with its cause, counted, and asked again only by a later attempt of a stage that didn't end. Nothing
here knows what is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from qednano.api.data_stages import Budget as BudgetSpec
from qednano.api.data_stages import WhenSpent
from qednano.data.answers import Answers, Recorded, Usage, key_of
from qednano.errors import ConfigError, DataError, Unavailable
from qednano.llm.budget import Budget, BudgetSpent, Spent
from qednano.llm.chat import ChatAnswer, ChatModel, ChatParams, Message
from qednano.llm.client import RequestRefused

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25  # between two looks at whether to stop
_OUTAGE = 20  # units, beside those in flight, that fail in a row before the server counts as gone
_NO_ACCESS = frozenset({401, 403, 404})  # a refusal that every other request will meet, too

BUDGET = "budget spent"
UNAVAILABLE = "no answer"
REFUSED = "refused"


class Parked(Exception):
    """A unit that can't end with a value now. `cause` is a few words, the same for all of its kind; `detail` tells."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True)
class Unit:
    """One piece of work: its key, the id of its row, and what asks for it. `ask` raises Parked, or gives JSON-able."""

    key: str
    row: str
    ask: Callable[[], Awaitable[dict[str, Any]]]


def seed_of(seed: int, key: str) -> int:
    """The seed of one unit's sampling, 31 bits."""
    return int(key_of(str(seed), key)[:8], 16) >> 1


_spent: ContextVar[Usage] = ContextVar("spent")


class Metered:
    """A model whose answers are charged to the unit that asks."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return self._model.name

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """The model's answer, counted."""
        answer = await self._model.chat(messages, params)
        if not answer.cached:
            _spent.get().add(usage_of_answer(answer))
        return answer


def usage_of_answer(answer: ChatAnswer) -> Usage:
    """What one answer cost."""
    if answer.cost is None:
        return Usage(1, answer.prompt_tokens, answer.completion_tokens, unpriced=1)
    return Usage(1, answer.prompt_tokens, answer.completion_tokens, answer.cost)


def _spent_by(usage: Usage) -> Spent:
    return Spent(usage.tokens, usage.cost, usage.unpriced)


def metered(models: Mapping[str, ChatModel]) -> dict[str, ChatModel]:
    """All of them, each metered."""
    return {field: Metered(model) for field, model in models.items()}


@dataclass
class Progress:
    """How far the asking is. Rows count as done when all of their units ended."""

    total: int
    rows: int = 0
    parked: int = 0  # rows of which no unit ended with a value
    parked_by_budget: int = 0
    causes: Counter[str] = field(default_factory=Counter)  # units
    started: dict[int, float] = field(default_factory=dict)  # in flight, by unit number

    def told(self) -> str:
        """A sentence for people; it changes while anything is in flight."""
        parts = [f"{self.rows} of {self.total} rows"]
        if self.parked:
            parts.append(f"{self.parked} parked")
        if self.started:
            oldest = time.monotonic() - min(self.started.values())
            parts.append(f"{len(self.started)} in flight, the oldest for {oldest / 60:.0f} min")
        return ", ".join(parts)


class _Row:
    """What is open of one row, and whether anything of it ended well."""

    def __init__(self, units: int, ended_well: bool) -> None:
        self.open = units
        self.ended_well = ended_well
        self.causes: set[str] = set()


async def ask_all(
    rows: Iterator[list[Unit]],
    answers: Answers,
    *,
    total: int,
    in_flight: int,
    budget: BudgetSpec,
    guess: Usage,
    stage: str,
    check: Callable[[Progress], None],
) -> Progress:
    """Ask for every unit that hasn't ended yet, `in_flight` at once; `rows` is read no faster than that.

    `guess` is what a unit may cost at most, to keep the budget until some have ended and their mean is known;
    `stage` names it in metrics and the log.
    `check` is called four times a second and may raise, which cancels what is in flight. Raises Unavailable when the
    server is gone, ConfigError when it refuses everything, DataError when the budget is spent and that is to fail.
    """
    purse = Budget(budget.tokens, budget.cost, spent=_spent_by(answers.usage), role=stage)
    run = _Run(rows, answers, total, purse, guess, in_flight, stage)
    workers = [asyncio.create_task(run.work()) for _ in range(in_flight)]
    try:
        waiting = set(workers)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                worker.result()
            check(run.progress)
    finally:
        for worker in workers:
            worker.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*workers, return_exceptions=True)
    for cause, count in sorted(run.progress.causes.items()):
        log.warning("%s: parked %d: %s", stage, count, cause)
    if run.over_budget and budget.when_spent is WhenSpent.FAIL:
        raise DataError(
            f"the stage's budget is spent ({run.budget.told()}) and {run.progress.rows} of {total} rows are done: "
            "raise it, or set budget.whenSpent to Finish to go on with these"
        )
    return run.progress


class _Run:
    """One pass over the units: which are open, what became of those that ended, and whether the server is there."""

    def __init__(
        self,
        rows: Iterator[list[Unit]],
        answers: Answers,
        total: int,
        budget: Budget,
        guess: Usage,
        in_flight: int,
        stage: str,
    ) -> None:
        self.progress = Progress(total)
        self.budget = budget
        self._stage = stage
        self.over_budget = False
        self._most = _spent_by(guess)
        self._answers, self._patience = answers, _OUTAGE + in_flight
        self._open: set[str] = set()
        self._units = self._open_units(rows)
        self._number = 0
        self._failures = 0  # in a row

    def _open_units(self, rows: Iterator[list[Unit]]) -> Iterator[tuple[_Row, Unit]]:
        """Units that have not ended, with the row that each belongs to. Units of one key are asked once."""
        for units in rows:
            fresh = [unit for unit in units if not self._answers.done(unit.key) and unit.key not in self._open]
            row = _Row(len(fresh), any(self._answers.done(unit.key) for unit in units))
            if not fresh:
                self.progress.rows += 1
            self._open.update(unit.key for unit in fresh)
            for unit in fresh:
                yield row, unit

    async def work(self) -> None:
        """Take units until there are no more; one of `in_flight` that do."""
        for row, unit in self._units:
            self._end(row, await self._paid(unit))

    async def _paid(self, unit: Unit) -> Recorded:
        """How the unit ended, which is kept; parked without being asked if the budget can't take it."""
        tried = None
        while tried != (expected := self.budget.expected(self._most)):  # it may have fallen while this one waited
            tried = expected
            with suppress(BudgetSpent):
                async with self.budget.reserve(expected) as place:
                    recorded = await self._timed(unit)
                    self._answers.append(recorded)
                    place.spent = _spent_by(recorded.usage)
                return recorded
        self.over_budget = True
        return Recorded(unit.key, unit.row, None, Usage(), BUDGET, self.budget.told())

    async def _timed(self, unit: Unit) -> Recorded:
        self._number += 1
        number = self._number
        self.progress.started[number] = time.monotonic()
        try:
            return await self._ended(unit)
        finally:
            del self.progress.started[number]

    async def _ended(self, unit: Unit) -> Recorded:
        spent = Usage()
        _spent.set(spent)
        try:
            value = await unit.ask()
        except Parked as parked:
            self._failures = 0  # the server does answer
            return Recorded(unit.key, unit.row, None, spent, parked.cause, parked.detail)
        except Unavailable as error:
            self._failed(error)
            return Recorded(unit.key, unit.row, None, spent, UNAVAILABLE, str(error))
        except RequestRefused as error:
            if error.status in _NO_ACCESS:
                raise ConfigError(str(error)) from None
            self._failed(error)
            return Recorded(unit.key, unit.row, None, spent, REFUSED, str(error))
        self._failures = 0
        return Recorded(unit.key, unit.row, value, spent)

    def _failed(self, error: Unavailable | RequestRefused) -> None:
        self._failures += 1
        if self._failures < self._patience:
            return
        told = f"{self._failures} requests in a row failed, the last with: {error}"
        raise ConfigError(told) if isinstance(error, RequestRefused) else Unavailable(told)

    def _end(self, row: _Row, recorded: Recorded) -> None:
        self._open.discard(recorded.key)
        row.open -= 1
        if recorded.parked:
            if not self.progress.causes[recorded.cause]:
                log.warning("%s: row %s is parked: %s: %s", self._stage, recorded.row, recorded.cause, recorded.detail)
            self.progress.causes[recorded.cause] += 1
            row.causes.add(recorded.cause)
        else:
            row.ended_well = True
        if row.open == 0:
            self.progress.rows += 1
            self.progress.parked += not row.ended_well
            self.progress.parked_by_budget += not row.ended_well and row.causes == {BUDGET}
