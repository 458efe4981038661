"""Events of runs, as many as a person can read: what repeats itself is held back, and counted in the next one."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from qednano.api import API_VERSION
from qednano_operator.cache import Key
from qednano_operator.conditions import clip
from qednano_operator.decision import Event, Object
from qednano_operator.kube import Kube, KubeError

log = logging.getLogger(__name__)

_BURST = 5  # Events of one run and reason that may follow each other at once
_REFILL_SECONDS = 300.0  # and then one more in so many seconds, as Kubernetes' own components do it


@dataclass
class _Bucket:
    tokens: float
    since: float
    held_back: int = 0


class Budget:
    """A token bucket for each run and reason. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[Key, dict[str, _Bucket]] = {}

    def take(self, key: Key, reason: str) -> int | None:
        """How many of the reason were held back since the last one that was let pass; None holds this one back too."""
        now = self._clock()
        bucket = self._buckets.setdefault(key, {}).setdefault(reason, _Bucket(_BURST, now))
        bucket.tokens = min(_BURST, bucket.tokens + (now - bucket.since) / _REFILL_SECONDS)
        bucket.since = now
        if bucket.tokens < 1:
            bucket.held_back += 1
            return None
        bucket.tokens -= 1
        held_back, bucket.held_back = bucket.held_back, 0
        return held_back

    def forget(self, key: Key) -> None:
        """The run is gone."""
        self._buckets.pop(key, None)


class Events:
    """Posts them. Losing one is no reason to repeat a pass."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._budget = Budget()

    def forget(self, key: Key) -> None:
        """The run is gone."""
        self._budget.forget(key)

    async def post(self, key: Key, run: Object, event: Event) -> None:
        """Tell one, unless too many of its reason were told of the run lately. The log has them all."""
        level = logging.WARNING if event.warning else logging.INFO
        log.log(level, "%s: %s", event.reason, event.message)
        held_back = self._budget.take(key, event.reason)
        if held_back is None:
            return
        try:
            await self._kube.create(_body(key, run, event, held_back, self._kube.clock.now()))
        except KubeError as error:
            log.warning("event %s was not posted: %s", event.reason, error)


def _body(key: Key, run: Object, event: Event, held_back: int, now: datetime) -> Object:
    kind, namespace, name = key
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    unique = hashlib.sha256(f"{event.reason}{event.message}{now.isoformat()}".encode()).hexdigest()[:12]
    more = f" ({held_back} more of this kind were held back before)" if held_back else ""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{unique}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": kind,
            "name": name,
            "namespace": namespace,
            "uid": run["metadata"]["uid"],
            "resourceVersion": run["metadata"]["resourceVersion"],
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": clip(event.message, 900) + more,
        "source": {"component": "qednano-operator"},
        "reportingComponent": "qednano-operator",
        "reportingInstance": "",
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
