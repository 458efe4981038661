"""kopf as the informer and no more: it fills the cache and names the runs to look at.

No state-changing handlers, timers or daemons: so kopf writes no finalizer or annotation on any object, and
deleting a run never waits for the operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import kopf

from qednano.api import KINDS
from qednano_operator import metrics
from qednano_operator.cache import CHILD_KINDS, Cache, Key, compact
from qednano_operator.kube import RESOURCES, in_cluster
from qednano_operator.observe import LABEL

SELECTOR = LABEL + "run"


def _watch(kind: str, cache: Cache, add: Callable[[Key], None], registry: kopf.OperatorRegistry) -> None:
    resource = RESOURCES[kind]
    group, _, version = resource.api_version.rpartition("/")
    where: tuple[str, ...] = (group, version, resource.plural)
    labels = {} if kind in KINDS else {"labels": {SELECTOR: kopf.PRESENT}}

    news: dict[str, set[Key]] = {}  # object uid to the runs it concerns, between the two steps below

    # An index is filled before any handler of any kind runs, so the first pass sees a complete cache.
    @kopf.index(*where, id=f"cache-{resource.plural}", registry=registry, **labels)  # type: ignore[arg-type]
    def fill(body: Any, **_: Any) -> None:
        obj = compact(kind, body)
        if cache.is_news(obj):  # the echo of our own write is none
            news[obj["metadata"]["uid"]] = cache.put({**obj, "seen": time.monotonic()})

    @kopf.on.event(*where, id=f"event-{resource.plural}", registry=registry, **labels)  # type: ignore[arg-type]
    def event(event: Any, **_: Any) -> None:
        metrics.WATCH_EVENTS.labels(kind).inc()
        obj = compact(kind, event["object"])
        concerned = news.pop(obj["metadata"]["uid"], set())
        if event["type"] == "DELETED":
            concerned = concerned | cache.remove(obj)
        for key in concerned:
            add(key)


def registry(cache: Cache, add: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Handlers for the four kinds and their children, on a registry of their own."""
    found = kopf.OperatorRegistry()
    for kind in (*KINDS, *CHILD_KINDS):
        _watch(kind, cache, add, found)

    @kopf.on.login(registry=found)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        take = kopf.login_with_service_account if in_cluster() else kopf.login_with_kubeconfig
        return take(**kwargs)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]

    return found


def settings() -> kopf.OperatorSettings:
    """kopf's settings: nothing written, dead watches noticed, only labelled children on the wire."""
    found = kopf.OperatorSettings()
    found.posting.enabled = False
    found.scanning.disabled = True
    found.peering.standalone = True
    found.watching.server_timeout = 300
    found.watching.client_timeout = 310
    found.watching.connect_timeout = 30
    found.watching.inactivity_timeout = 90
    found.watching.reconnect_backoff = 1
    found.watching.chunk_size = 500
    found.networking.request_timeout = 30
    found.networking.error_backoffs = (1, 1, 2, 3, 5, 8, 13, 21)
    found.process.ultimate_exiting_timeout = 25
    for kind in CHILD_KINDS:
        resource = RESOURCES[kind]
        group, _, version = resource.api_version.rpartition("/")
        found.watching.label_selectors[group, version, resource.plural] = SELECTOR
    return found
