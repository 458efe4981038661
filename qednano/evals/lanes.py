"""How many questions are in flight: of all roles and of each, the oldest sample first; one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping


class Lanes:
    """Slots for questions. `limits` are by role (absent or 0: only the limit of all).

    Waiting questions get slots by their sample's age, so that samples that were begun are finished before new ones
    take their place, and memory stays flat however many samples there are.
    """

    def __init__(self, capacity: int, limits: Mapping[str, int] | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a capacity of {capacity} lets no question through")
        self.capacity = capacity
        self._limits = {role: limit for role, limit in (limits or {}).items() if limit}
        self.busy = self.asked = 0
        self._busy_of: Counter[str] = Counter()
        self._waiting: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._turn = itertools.count()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.asynccontextmanager
    async def slot(self, role: str, age: int) -> AsyncIterator[None]:
        """A slot for the block; `age` is the sample's place in the order of samples, lower ones go first."""
        self.asked += 1
        if self._free(role) and not self._waiting.get(role):
            self._take(role)
        else:
            await self._wait(role, age)
        try:
            yield
        finally:
            self._give(role)

    async def room(self) -> None:
        """Returns when a slot is free and no question waits for it: there is room for another sample."""
        await self._idle.wait()

    def _free(self, role: str) -> bool:
        limit = self._limits.get(role, self.capacity)
        return self.busy < self.capacity and self._busy_of[role] < limit

    def _take(self, role: str) -> None:
        self.busy += 1
        self._busy_of[role] += 1
        if self.busy >= self.capacity:
            self._idle.clear()

    def _give(self, role: str) -> None:
        self.busy -= 1
        self._busy_of[role] -= 1
        self._hand_on()
        if self.busy < self.capacity:
            self._idle.set()

    async def _wait(self, role: str, age: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting.setdefault(role, []), (age, next(self._turn), future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give(role)  # it was given a slot and cancelled at once
            raise

    def _hand_on(self) -> None:
        """Give free slots to the oldest questions whose role has room."""
        while self.busy < self.capacity:
            best: list[tuple[int, int, asyncio.Future[None]]] | None = None
            chosen = ""
            for role, queue in self._waiting.items():
                while queue and queue[0][2].done():
                    heapq.heappop(queue)
                if queue and self._free(role) and (best is None or queue[0] < best[0]):
                    best, chosen = queue, role
            if best is None:
                return
            _, _, future = heapq.heappop(best)
            self._take(chosen)
            future.set_result(None)
