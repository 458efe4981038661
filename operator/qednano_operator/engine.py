"""Carries decisions out: the thin layer between ``reconcile`` and the API server."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from qednano.api import API_VERSION, TERMINAL, RunStatus
from qednano.progress import ProgressReport
from qednano_operator import metrics
from qednano_operator.attempts import began_again
from qednano_operator.cache import Cache, Key, compact
from qednano_operator.conditions import clip
from qednano_operator.decision import Decision, Defaults, Event, Object
from qednano_operator.kube import ApiError, Conflict, Kube, KubeError
from qednano_operator.limits import held_reason
from qednano_operator.observe import parse_time
from qednano_operator.reconcile import reconcile, refused
from qednano_operator.status import difference, is_urgent, stored
from qednano_operator.subject import read_status

log = logging.getLogger(__name__)

_STATUS_INTERVAL = 5.0  # seconds between writes of progress alone
_REFUSALS = (400, 403, 422)  # the API server answered, and will answer so again: quota, admission, validation
# Names that people use too: made by a create, which never touches what is there, as an apply would.
_GUARDED = ("ConfigMap", "Service", "NetworkPolicy", "EvalRun")


class Engine:
    """Handles one key at a time: read the cache, decide, act."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        defaults: Defaults,
        reports: Callable[[Key], Mapping[str, ProgressReport]],
        add_after: Callable[[Key, float], None],
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._defaults = defaults
        self._reports = reports
        self._add_after = add_after
        self._written: dict[Key, float] = {}
        self._phases: dict[Key, str] = {}
        self._held: dict[Key, str] = {}

    async def handle(self, key: Key) -> None:
        """One pass over one run."""
        run = self._cache.run(key)
        if run is None:
            self._forget(key)
            return
        started = time.monotonic()
        result = "error"
        try:
            decision = reconcile(run, self._cache.world(key, self._reports(key)), datetime.now(UTC), self._defaults)
            await self._carry_out(key, run, decision)
            result = "ok"
        finally:
            metrics.RECONCILES.labels(key[0], result).inc()
            metrics.RECONCILE_SECONDS.labels(key[0]).observe(time.monotonic() - started)

    async def _carry_out(self, key: Key, run: Object, decision: Decision) -> None:
        namespace = key[1]
        for target in decision.delete:
            await self._kube.delete(target.kind, namespace, target.name, target.uid)
        for obj in decision.apply:
            try:
                if not await self._apply(obj, run["metadata"]["uid"]):
                    self._add_after(key, 1.0)
                    return
            except ApiError as error:
                if error.status not in _REFUSALS:
                    raise
                what = f"{obj['kind']} {obj['metadata']['name']}"
                decision = refused(run, decision, what, error.reason, datetime.now(UTC))
                break
        await self._write_status(key, run, decision)
        if decision.wake_after is not None:
            self._add_after(key, decision.wake_after)

    async def _apply(self, obj: Object, run_uid: str) -> bool:
        """Apply one child; False when somebody else has an object of that name."""
        kind, meta = obj["kind"], obj["metadata"]
        if kind in _GUARDED and not self._cache.has(kind, meta["namespace"], meta["name"]):
            try:
                applied = await self._kube.create(obj)
            except Conflict:
                applied = await self._kube.get(kind, meta["namespace"], meta["name"])
                owners = applied["metadata"].get("ownerReferences") or []
                if not any(owner.get("uid") == run_uid for owner in owners):
                    self._cache.note_foreign(kind, meta["namespace"], meta["name"])
                    return False
        else:
            applied = await self._kube.apply(obj)
        self._cache.put({**compact(kind, applied), "seen": time.monotonic()})
        return True

    async def _write_status(self, key: Key, run: Object, decision: Decision) -> None:
        kind, namespace, name = key
        before = read_status(run)
        patch = difference(stored(before), stored(decision.status))
        if not patch:
            return self._count_phase(key, before)
        wait = self._written.get(key, 0.0) + _STATUS_INTERVAL - time.monotonic()
        if wait > 0 and not is_urgent(patch):
            self._add_after(key, wait)
            return None
        version = run["metadata"]["resourceVersion"]
        updated = await self._kube.patch_status(kind, namespace, name, patch, version)
        self._written[key] = time.monotonic()
        for other in self._cache.put({**compact(kind, updated), "seen": time.monotonic()}) - {key}:
            self._add_after(other, 0)  # those that refer to this run; the watch's echo of this write is no news
        self._count(key, before, decision.status)
        for event in decision.events:
            await self._post(key, run, event)
        if is_urgent(patch):
            self._add_after(key, 0)  # an intent is stored: act on it without waiting for the watch's echo
        return None

    async def _post(self, key: Key, run: Object, event: Event) -> None:
        """Post one event. Losing one is no reason to repeat a pass."""
        kind, namespace, name = key
        now = datetime.now(UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        unique = hashlib.sha256(f"{event.reason}{event.message}{now.isoformat()}".encode()).hexdigest()[:12]
        body = {
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
            "message": clip(event.message, 1000),
            "source": {"component": "qednano-operator"},
            "reportingComponent": "qednano-operator",
            "reportingInstance": "",
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._kube.create(body)
        except KubeError as error:
            log.warning("event %s of %s was not posted: %s", event.reason, key, error)
        log.log(
            logging.WARNING if event.warning else logging.INFO, "%s %s/%s: %s: %s", *key, event.reason, event.message
        )

    def _count(self, key: Key, before: RunStatus, after: RunStatus) -> None:
        kind, namespace, _ = key
        self._count_phase(key, after)
        if after.phase is not before.phase and after.phase is not None:
            metrics.TRANSITIONS.labels(kind, after.phase.value).inc()
            start = parse_time(after.start_time)
            if after.phase == "Running" and after.attempt == 1 and start is not None:
                metrics.STARTUP_SECONDS.labels(kind).observe((datetime.now(UTC) - start).total_seconds())
        if began_again(before, after):
            metrics.RESTARTS.labels(kind, after.attempts[-1].reason).inc()
        used = (after.usage.gpu_seconds if after.usage else 0) - (before.usage.gpu_seconds if before.usage else 0)
        if used > 0:
            metrics.GPU_SECONDS.labels(namespace, kind).inc(used)

    def _count_held(self, key: Key, reason: str) -> None:
        old = self._held.get(key, "")
        if old == reason:
            return
        if old:
            metrics.NOT_PROGRESSING.labels(key[0], old).dec()
            del self._held[key]
        if reason:
            metrics.NOT_PROGRESSING.labels(key[0], reason).inc()
            self._held[key] = reason

    def _count_phase(self, key: Key, status: RunStatus) -> None:
        self._count_held(key, held_reason(status))
        old, new = self._phases.get(key), status.phase.value if status.phase else "Pending"
        if old == new:
            return
        if old is not None:
            metrics.RUNS.labels(key[0], old).dec()
        metrics.RUNS.labels(key[0], new).inc()
        self._phases[key] = new
        if status.phase in TERMINAL:
            self._written.pop(key, None)

    def _forget(self, key: Key) -> None:
        self._written.pop(key, None)
        self._count_held(key, "")
        old = self._phases.pop(key, None)
        if old is not None:
            metrics.RUNS.labels(key[0], old).dec()
