"""Insurance against watches that die in silence: now and then the cache is compared with full lists.

A watch may stay open and tell nothing more, and a deletion that falls into a gap of one is never told: kopf lists
afterwards what exists, not what is gone. A list may also be faster than an event on its way, so what it shows counts
as missed only if the watches have not told it some seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from qednano.api import KINDS
from qednano_operator import metrics, surroundings
from qednano_operator.cache import CHILD_KINDS, Cache, Key, compact
from qednano_operator.decision import Object
from qednano_operator.kube import Kube, KubeError, optional_children
from qednano_operator.watch import SELECTOR

log = logging.getLogger(__name__)

_PATIENCE = 2  # comparisons in a row that find something missed, until the process counts as sick


@dataclass
class Resync:
    """Compares every ``interval`` seconds, and every ``settle`` seconds while the watches are known to miss things."""

    kube: Kube
    cache: Cache
    namespaces: tuple[str, ...]
    add: Callable[[Key], None]
    interval: float = 600.0
    settle: float = 10.0
    missed_in_a_row: int = field(default=0, init=False)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def soon(self) -> None:
        """Compare without waiting for the interval: a watch began anew, and what went before is told by nobody."""
        self._wanted.set()

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            wait = self.interval * random.uniform(0.9, 1.1) if not self.missed_in_a_row else self.settle
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), wait)
                await asyncio.sleep(self.settle)  # the other watches begin anew at the same time
            self._wanted.clear()
            try:
                missed = await self.compare()
            except KubeError as error:
                log.warning("watches could not be compared with lists; tried again later: %s", error)
                continue
            self.missed_in_a_row = self.missed_in_a_row + 1 if missed else 0
            metrics.CORRECTIONS.inc(len(missed))
            for key in missed | self.cache.queued(""):
                self.add(key)

    async def compare(self) -> set[Key]:
        """List everything, and correct what the watches have still not told when it has settled: the runs concerned."""
        doubted = []
        for kind in (*KINDS, *CHILD_KINDS, *optional_children()):
            listed_at = time.monotonic()
            doubted.append((kind, *self.cache.compare(kind, await self._list(kind), listed_at)))
        await self._around()
        if not any(newer or gone for _, newer, gone in doubted):
            return set()
        await asyncio.sleep(self.settle)
        missed: set[Key] = set()
        for kind, newer, gone in doubted:
            missed |= await self._correct(kind, newer, gone)
        return missed

    async def _list(self, kind: str) -> list[Object]:
        seen = time.monotonic()
        labels = "" if kind in KINDS else SELECTOR
        return [{**compact(kind, obj), "seen": seen} async for obj in self._everywhere(kind, labels)]

    async def _everywhere(self, kind: str, labels: str = "") -> AsyncIterator[Object]:
        for namespace in self.namespaces or (None,):
            async for page in self.kube.pages(kind, namespace, labels):
                for obj in page:
                    yield obj

    async def _correct(self, kind: str, newer: list[Object], gone: list[Object]) -> set[Key]:
        late = {obj["metadata"]["uid"] for obj in newer if self.cache.is_news(obj)}
        left = [obj for obj in gone if self.cache.holds(obj)]
        if not late and not left:
            return set()
        now = {obj["metadata"]["uid"]: obj for obj in await self._list(kind)}  # what came may have gone since
        missed: set[Key] = set()
        for uid in late & now.keys():
            missed |= self.cache.put(now[uid])
        for obj in left:
            if obj["metadata"]["uid"] not in now:
                missed |= self.cache.remove(obj)
        log.warning("the watch of %s had not told %d changes and %d deletions", kind, len(late), len(left))
        return missed

    async def _around(self) -> None:
        for kind in surroundings.QUOTA_KINDS:
            found = [surroundings.compact(kind, obj) async for obj in self._everywhere(kind)]
            self.cache.around.replace_all(kind, found)

    def sick(self) -> str:
        """Why this process should be started anew: its watches are dead and don't revive. Empty while they live."""
        if self.missed_in_a_row < _PATIENCE:
            return ""
        return f"the watches missed changes in {self.missed_in_a_row} comparisons in a row"
