"""How fast a server is asked: requests at once, which adapts, and requests and tokens a minute, which don't."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

_SLOWER = 0.7
_STEPS = 32  # good rounds from nothing back to the maximum
_BURST_SECONDS = 10.0


class AdaptiveLimit:
    """At most so many requests at once: additive increase while answers come, multiplicative decrease on overload.

    One decrease a round: requests that were sent before the last one say nothing new. Waiters are served in order.
    `changed(limit, in_flight)` is told by how much each changes.
    """

    def __init__(
        self,
        maximum: int,
        changed: Callable[[int, int], None] = lambda limit, in_flight: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if maximum < 1:
            raise ValueError(f"maximum is {maximum}; it must be at least 1")
        self.maximum, self.in_flight = maximum, 0
        self._limit = float(maximum)
        self._step = max(1.0, maximum / _STEPS)
        self._slowed_at = float("-inf")
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._changed, self._clock = changed, clock
        changed(maximum, 0)

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return int(self._limit)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place among the requests under way, as long as the block runs."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    def faster(self) -> None:
        """A request was answered."""
        if self._limit < self.maximum:
            self._set(min(float(self.maximum), self._limit + self._step / self._limit))
            self._admit()

    def slower(self, sent: float) -> None:
        """A request that was sent at `sent` (by the clock) failed in a way that says the server has too many."""
        if sent > self._slowed_at:
            self._slowed_at = self._clock()
            self._set(max(1.0, min(self._limit, self.in_flight) * _SLOWER))

    def close(self) -> None:
        """Take back what `changed` was told."""
        self._changed(-self.limit, -self.in_flight)

    def _set(self, limit: float) -> None:
        before, self._limit = self.limit, limit
        if self.limit != before:
            self._changed(self.limit - before, 0)

    async def _enter(self) -> None:
        if self.in_flight < self.limit and not self._waiters:
            self._count(1)
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # admitted in the same turn: hand the place on
                self._leave()
            raise

    def _leave(self) -> None:
        self._count(-1)
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self.in_flight < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._count(1)
                waiter.set_result(None)

    def _count(self, change: int) -> None:
        self.in_flight += change
        self._changed(0, change)


class Rate:
    """At most `per_minute` of something, in bursts of a sixth of that; 0 is no limit. Served in order."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, self._per_second * _BURST_SECONDS)
        self._level, self._clock, self._filled = self._most, clock, clock()
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until `amount` is there and take it. More than a burst holds is taken on credit."""
        if not self._per_second:
            return
        async with self._turn:
            while (lacking := min(amount, self._most) - self._fill()) > 1e-9:
                await asyncio.sleep(lacking / self._per_second)
            self._level -= amount

    def correct(self, amount: float) -> None:
        """Take `amount` more than was known before; less when negative."""
        if self._per_second:
            self._level = min(self._most, self._fill() - amount)

    def _fill(self) -> float:
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._filled) * self._per_second)
        self._filled = now
        return self._level
