"""A queue of keys: each is handled by one worker at a time, asked for twice it is handled once more, not twice."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from qednano_operator import metrics

log = logging.getLogger(__name__)
Key = TypeVar("Key", bound=Hashable)

_FIRST_RETRY, _LONGEST_RETRY = 0.2, 60.0


class KeyedQueue(Generic[Key]):
    """De-duplicates keys, delays them, and backs off those whose handling raised.

    A key added while it is being handled is handled again afterwards. ``handle`` may raise an error with an
    attribute ``retry_after`` (seconds) to choose its own wait. ``about`` gives what surrounds the handling of a key:
    the log's mention of it.
    """

    def __init__(
        self,
        handle: Callable[[Key], Awaitable[None]],
        workers: int = 8,
        about: Callable[[Key], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._handle = handle
        self._about = about
        self._workers = workers
        self._ready: deque[Key] = deque()
        self._since: dict[Key, float] = {}  # keys in _ready: since when
        self._busy: set[Key] = set()
        self._dirty: set[Key] = set()
        self._delayed: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}  # the earliest time in _delayed that counts
        self._failures: dict[Key, int] = {}
        self._progress = time.monotonic()  # when a worker last took a key or was done with one
        self._unseen: set[Key] = set()  # keys that caught_up() waits for
        self._seen = asyncio.Event()
        self._closed = False  # no worker takes a further key
        self._idle = asyncio.Event()  # looked at by finish() only
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._timer_wake = asyncio.Event()

    def add(self, key: Key) -> None:
        """Have the key handled as soon as a worker is free."""
        if key in self._busy:
            self._dirty.add(key)
        elif key not in self._since:
            self._since[key] = time.monotonic()
            self._ready.append(key)
            metrics.QUEUE_DEPTH.set(len(self._ready))
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have the key handled in so many seconds; an earlier date for the same key stands."""
        if seconds <= 0:
            self.add(key)
            return
        due = time.monotonic() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._delayed, (due, next(self._order), key))
        self._timer_wake.set()

    def stuck_seconds(self) -> float:
        """How long keys have waited while no worker took one or was done with one: a long queue alone is not stuck."""
        now = time.monotonic()
        return now - max(self._progress, min(self._since.values(), default=now))

    async def caught_up(self) -> None:
        """Return once every key that waits now has been handled, well or not."""
        self._unseen = {*self._since, *self._busy}
        while self._unseen:
            self._seen.clear()
            await self._seen.wait()

    async def finish(self, seconds: float) -> None:
        """Let no worker take a further key, and return when those being handled are done or the time is over."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._busy:
                    self._idle.clear()
                    await self._idle.wait()

    def __len__(self) -> int:
        return len(self._ready)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._timer())
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _timer(self) -> None:
        while True:
            now = time.monotonic()
            while self._delayed and self._delayed[0][0] <= now:
                due, _, key = heapq.heappop(self._delayed)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            self._timer_wake.clear()
            wait = self._delayed[0][0] - now if self._delayed else None
            try:
                await asyncio.wait_for(self._timer_wake.wait(), wait)
            except TimeoutError:
                continue

    async def _take(self) -> Key:
        while self._closed or not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._progress = time.monotonic()
        metrics.QUEUE_SECONDS.observe(time.monotonic() - self._since.pop(key))
        metrics.QUEUE_DEPTH.set(len(self._ready))
        return key

    async def _work(self) -> None:
        while True:
            key = await self._take()
            self._busy.add(key)
            try:
                with self._about(key):
                    await self._try(key)
            finally:
                self._busy.discard(key)
                self._idle.set()
                self._progress = time.monotonic()
                self._unseen.discard(key)
                if not self._unseen:
                    self._seen.set()
                if key in self._dirty:
                    self._dirty.discard(key)
                    self.add(key)

    async def _try(self, key: Key) -> None:
        try:
            await self._handle(key)
        except Exception as error:
            self._retry(key, error)
        else:
            self._failures.pop(key, None)

    def _retry(self, key: Key, error: Exception) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        wait = getattr(error, "retry_after", None)
        if wait is None:
            wait = min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(count - 1, 16))
            log.warning("%s; trying again in %.1f s", error or repr(error), wait, exc_info=not hasattr(error, "status"))
        self.add_after(key, wait)
