"""What is watched, and what becomes of it: the cache is filled, and the runs concerned are named.

kopf watches and no more. It has no state-changing handlers, timers or daemons here, so it writes no finalizer or
annotation on any object, and deleting a run never waits for the operator. The first lists are our own, in pages:
kopf's indices, which would do it too, wake every object that waits for each one that comes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import kopf

from qednano.api import KINDS
from qednano_operator import metrics, surroundings
from qednano_operator.cache import CHILD_KINDS, Cache, Key, compact
from qednano_operator.decision import Object
from qednano_operator.kube import RESOURCES, Kube, KubeError, in_cluster, optional_children
from qednano_operator.observe import LABEL

log = logging.getLogger(__name__)

SELECTOR = LABEL + "run"
_PAUSES = (1, 1, 2, 3, 5, 8)  # seconds between tries to list, and to watch


class _Sink(Protocol):
    """Where objects go. Each method returns the runs that what it was told concerns."""

    def put(self, raw: Object) -> Iterable[Key]:
        """The object is there, in this state."""

    def remove(self, raw: Object) -> Iterable[Key]:
        """The object has gone."""


class _Members:
    """Runs, and what belongs to them by its labels."""

    def __init__(self, kind: str, cache: Cache) -> None:
        self._kind, self._cache = kind, cache

    def put(self, raw: Object) -> Iterable[Key]:
        obj = compact(self._kind, raw)
        if not self._cache.is_news(obj):  # the echo of our own write is none
            return ()
        return self._cache.put({**obj, "seen": time.monotonic()})

    def remove(self, raw: Object) -> Iterable[Key]:
        return self._cache.remove(compact(self._kind, raw))


class _Shared:
    """What runs share: a change concerns those that wait for quota."""

    def __init__(self, kind: str, cache: Cache) -> None:
        self._kind, self._cache = kind, cache

    def put(self, raw: Object) -> Iterable[Key]:
        obj = surroundings.compact(self._kind, raw)
        return self._cache.queued(obj["metadata"]["namespace"]) if self._cache.around.put(obj) else ()

    def remove(self, raw: Object) -> Iterable[Key]:
        obj = surroundings.compact(self._kind, raw)
        self._cache.around.remove(obj)
        return self._cache.queued(obj["metadata"]["namespace"])


class Watches:
    """Everything that an operator watches, in its namespaces (all of them when empty).

    ``relisted`` is called when a watch could not go on where it had ended: what went in between is told by nobody.
    ``signals`` is called when kopf has taken the process's signals for itself, to take them back.
    """

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        namespaces: Collection[str],
        add: Callable[[Key], None],
        relisted: Callable[[], None],
        silence_seconds: float,
        signals: Callable[[], None] = lambda: None,
    ) -> None:
        self._kube, self._cache, self._namespaces = kube, cache, namespaces
        self._add, self._relisted, self._silence = add, relisted, silence_seconds
        self._signals = signals
        self._listed = asyncio.Event()
        self._sinks: dict[str, _Sink] = {
            kind: _Members(kind, cache) for kind in (*KINDS, *CHILD_KINDS, *optional_children())
        }
        self._sinks |= {kind: _Shared(kind, cache) for kind in surroundings.QUOTA_KINDS}
        self._of_cluster = surroundings.KUEUE_KINDS if cache.kueue else ()
        self._sinks |= {kind: _Shared(kind, cache) for kind in self._of_cluster}

    async def list_all(self) -> None:
        """Take in all that is there, and name every run."""
        async with asyncio.TaskGroup() as group:
            for kind, sink in self._sinks.items():
                everywhere = kind in self._of_cluster or not self._namespaces
                for namespace in (None,) if everywhere else self._namespaces:
                    group.create_task(self._list(kind, namespace, sink))
        self._listed.set()
        for key in self._cache.keys():  # noqa: SIM118
            self._add(key)

    async def _list(self, kind: str, namespace: str | None, sink: _Sink) -> None:
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                async for page in self._kube.pages(kind, namespace, _labels(kind)):
                    for raw in page:
                        sink.put(raw)
                return
            except KubeError as error:
                log.warning("%s can't be listed, tried again in %d s: %s", RESOURCES[kind].plural, pause, error)
                await asyncio.sleep(pause)

    async def run(self) -> None:
        """Watch from the end of the first lists on, until cancelled."""
        await self._listed.wait()
        others = asyncio.all_tasks()  # none of kopf's, which waits for those that it finds at its end
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(self._silence, self._sinks),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            identity="qednano-operator",  # type: ignore[arg-type]  # else it asks who the user is: images name none
        )
        self._signals()
        await kopf.run_tasks(tasks, ignored=others)

    def _registry(self) -> kopf.OperatorRegistry:
        """Handlers of its own, so that two operators in one process don't meet."""
        registry = kopf.OperatorRegistry()
        for kind, sink in self._sinks.items():
            self._watch(kind, sink, registry)

        @kopf.on.login(registry=registry)
        def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
            take = kopf.login_with_service_account if in_cluster() else kopf.login_with_kubeconfig
            return take(**kwargs)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]

        return registry

    def _watch(self, kind: str, sink: _Sink, registry: kopf.OperatorRegistry) -> None:
        told = metrics.WATCH_EVENTS.labels(kind)
        labels = {"labels": {SELECTOR: kopf.PRESENT}} if _labels(kind) else {}

        @kopf.on.event(*_where(kind), id=f"event-{kind}", registry=registry, **labels)  # type: ignore[arg-type]
        async def event(event: Any, **_: Any) -> None:  # async, or kopf starts a thread for each
            told.inc()
            if event["type"] is None:
                self._relisted()
            for key in sink.remove(event["object"]) if event["type"] == "DELETED" else sink.put(event["object"]):
                self._add(key)


def _labels(kind: str) -> str:
    return SELECTOR if kind in CHILD_KINDS or kind in optional_children() else ""


def _where(kind: str) -> tuple[str, str, str]:
    group, _, version = RESOURCES[kind].api_version.rpartition("/")
    return group, version, RESOURCES[kind].plural


class _NoDiffs(kopf.DiffBaseStorage):
    """Nothing is compared with what was handled before, so nothing is copied for it and nothing stored."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        pass


def _settings(silence_seconds: float, kinds: Iterable[str]) -> kopf.OperatorSettings:
    """kopf's settings: nothing written, silent watches opened anew, only labelled children on the wire."""
    found = kopf.OperatorSettings()
    found.posting.enabled = False
    found.scanning.disabled = True
    found.peering.standalone = True
    found.persistence.diffbase_storage = _NoDiffs()
    # An object's task is over with its event: thousands that idle would only cost memory.
    found.queueing.idle_timeout = 0.05
    found.queueing.worker_limit = 500
    found.watching.server_timeout = 300
    found.watching.client_timeout = 310
    found.watching.connect_timeout = 30
    found.watching.inactivity_timeout = silence_seconds
    found.watching.reconnect_backoff = 1
    found.watching.chunk_size = 500
    found.networking.request_timeout = 30
    found.networking.error_backoffs = _PAUSES
    found.process.ultimate_exiting_timeout = 25
    for kind in kinds:
        if _labels(kind):
            found.watching.label_selectors[_where(kind)] = SELECTOR
    return found
