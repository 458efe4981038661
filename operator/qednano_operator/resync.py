"""Insurance against lost watch events: now and then the cache is compared with full lists.

A deletion that falls into a gap of a watch is never told: after such a gap kopf lists what exists, not what is gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from qednano.api import KINDS
from qednano_operator import metrics
from qednano_operator.cache import CHILD_KINDS, Cache, Key, compact
from qednano_operator.kube import Kube, KubeError
from qednano_operator.watch import SELECTOR

log = logging.getLogger(__name__)

INTERVAL = 600.0


async def resync(kube: Kube, cache: Cache, namespaces: tuple[str, ...]) -> set[Key]:
    """List everything once, correct the cache, and return the runs concerned."""
    concerned: set[Key] = set()
    for kind in (*KINDS, *CHILD_KINDS):
        started = time.monotonic()
        objects = []
        for namespace in namespaces or (None,):
            found = await kube.list(kind, namespace, "" if kind in KINDS else SELECTOR)
            objects += [{**compact(kind, obj), "seen": started} for obj in found]
        concerned |= cache.replace_all(kind, objects, started)
    return concerned


async def keep_synced(
    kube: Kube, cache: Cache, namespaces: tuple[str, ...], add: Callable[[Key], None], interval: float = INTERVAL
) -> None:
    """Resync at intervals until cancelled."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.9, 1.1))
        try:
            concerned = await resync(kube, cache, namespaces)
            metrics.CORRECTIONS.inc(len(concerned))
            for key in concerned:
                add(key)
        except KubeError as error:
            log.warning("the resync failed and is tried again later: %s", error)
