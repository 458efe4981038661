"""Carries decisions out: the thin layer between ``reconcile`` and the API server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from qednano.progress import ProgressReport
from qednano_operator import logs, metrics
from qednano_operator.cache import Cache, Key, compact
from qednano_operator.counts import Counts
from qednano_operator.decision import Decision, Defaults, Object, Question
from qednano_operator.events import Events
from qednano_operator.kube import ApiError, Conflict, Kube
from qednano_operator.observe import LABEL
from qednano_operator.reconcile import reconcile, refused
from qednano_operator.status import difference, is_urgent, stored
from qednano_operator.subject import read_status

log = logging.getLogger(__name__)

_QUIET_SECONDS = 5.0  # for so long a change that moves no run waits for others that go into the same write
_REFUSALS = (400, 403, 422)  # the API server answered, and will answer so again: quota, admission, validation


def _steps(objects: tuple[Object, ...]) -> list[list[Object]]:
    """Objects that can be made at once, in order: what pods need, then what makes pods."""
    makes_pods = ("Job", "JobSet", "StatefulSet")
    parts = [[obj for obj in objects if (obj["kind"] in makes_pods) is later] for later in (False, True)]
    return [part for part in parts if part]


# Names that people use too. Others are ours alone, and the operator has no right to look them up.
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
        self._due: dict[Key, float] = {}  # when a change that waits is to be written
        self._wrote: dict[Key, float] = {}  # when the status was last written
        self._counts = Counts()
        self._events = Events(kube)

    def about(self, key: Key) -> AbstractContextManager[None]:
        """What is logged within names this run."""
        run = self._cache.run(key)
        return logs.about(*key, uid=run["metadata"]["uid"] if run else "")

    async def handle(self, key: Key) -> None:
        """One pass over one run."""
        run = self._cache.run(key)
        if run is None:
            self._due.pop(key, None)
            self._wrote.pop(key, None)
            self._counts.forget(key)
            self._events.forget(key)
            return
        started = time.monotonic()
        result = "error"
        try:
            decision = reconcile(
                run, self._cache.world(key, self._reports(key)), self._kube.clock.now(), self._defaults
            )
            await self._carry_out(key, run, decision)
            result = "ok"
        except Exception as error:
            self._counts.failed(key, error)
            raise
        finally:
            metrics.RECONCILES.labels(key[0], result).inc()
            metrics.RECONCILE_SECONDS.labels(key[0]).observe(time.monotonic() - started)

    async def _carry_out(self, key: Key, run: Object, decision: Decision) -> None:
        namespace = key[1]
        if decision.ask:
            await self._ask(key, run, decision.ask)
            return
        for target in decision.delete:
            if target.force:
                log.warning("%s is deleted by force: its node does not say that it ended", target.name)
            await self._kube.delete(target.kind, namespace, target.name, target.uid, target.force)
        for step in _steps(decision.apply):
            unmade = await self._make(step, run["metadata"]["uid"])
            refusal = next(((obj, error) for obj, error in unmade if error is not None), None)
            if refusal is not None:
                obj, error = refusal
                self._counts.refused(key)
                what = f"{obj['kind']} {obj['metadata']['name']}"
                decision = refused(run, decision, what, error.reason, self._kube.clock.now())
                break
            if unmade:
                self._add_after(key, 1.0)
                return
        for patch in decision.patch:
            patched = await self._kube.patch_status(patch.kind, namespace, patch.name, patch.status, patch.version)
            self._cache.put({**compact(patch.kind, patched), "seen": time.monotonic()})
        if decision.finalizers is not None:
            await self._finalize(key, run, decision)
            return
        await self._write_status(key, run, decision)
        if decision.wake_after is not None:
            self._add_after(key, decision.wake_after)

    async def _ask(self, key: Key, run: Object, questions: tuple[Question, ...]) -> None:
        """Take in the pods that no watch has told of, or that they are gone."""
        for item in questions:
            wanted: Object = {"uid": run["metadata"]["uid"]}
            if item.role:
                wanted |= {"role": item.role, "attempt": item.attempt}
            labels = ",".join(f"{LABEL}{name}={value}" for name, value in wanted.items())
            pods = [
                {**compact("Pod", pod), "seen": time.monotonic()}
                async for page in self._kube.pages("Pod", key[1], labels)
                for pod in page
            ]
            self._cache.answered(key, pods, item.answers)
        self._add_after(key, 0)

    async def _finalize(self, key: Key, run: Object, decision: Decision) -> None:
        kind, namespace, name = key
        version = run["metadata"]["resourceVersion"]
        updated = await self._kube.patch_finalizers(kind, namespace, name, decision.finalizers or (), version)
        for event in decision.events:
            await self._events.post(key, run, event)
        known = {**compact(kind, updated), "seen": time.monotonic()}
        if self._cache.holds(known):  # else its watch has told that it is gone
            self._cache.put(known)
        if not run["metadata"].get("deletionTimestamp"):
            self._add_after(key, 0)

    async def _make(self, objects: list[Object], run_uid: str) -> list[tuple[Object, ApiError | None]]:
        """Make or change objects, all at once. Those that are not made, each with the API server's refusal, or with
        None where somebody else has one of that name."""
        found = await asyncio.gather(*(self._apply(obj, run_uid) for obj in objects), return_exceptions=True)
        unmade: list[tuple[Object, ApiError | None]] = []
        for obj, result in zip(objects, found, strict=True):
            if isinstance(result, ApiError) and result.status in _REFUSALS:
                unmade.append((obj, result))
            elif isinstance(result, BaseException):
                raise result
            elif not result:
                unmade.append((obj, None))
        return unmade

    async def _apply(self, obj: Object, run_uid: str) -> bool:
        """Make one child, or change it in place; False when somebody else has an object of that name.

        What is not known yet is made by a create: cheaper than an apply, and it never touches what others have made.
        So is what never changes.
        """
        kind, meta = obj["kind"], obj["metadata"]
        if kind not in ("Job", "JobSet") and self._cache.has(kind, meta["namespace"], meta["name"]):
            applied = await self._kube.apply(obj)
        else:
            try:
                applied = await self._kube.create(obj)
            except Conflict:
                if kind not in _GUARDED:
                    raise  # made by a pass whose answer was lost: its watch is about to tell
                applied = await self._kube.get(kind, meta["namespace"], meta["name"])
                owners = applied["metadata"].get("ownerReferences") or []
                if not any(owner.get("uid") == run_uid for owner in owners):
                    self._cache.note_foreign(kind, meta["namespace"], meta["name"])
                    return False
        self._cache.put({**compact(kind, applied), "seen": time.monotonic()})
        return True

    async def _write_status(self, key: Key, run: Object, decision: Decision) -> None:
        kind, namespace, name = key
        before = read_status(run)
        old = stored(before)
        patch = difference(old, stored(decision.status))
        if not patch:
            self._due.pop(key, None)
            return self._counts.seen(key, before)
        urgent = is_urgent(patch, old)
        now = time.monotonic()
        # Progress comes alone and, where there are many runs, seldom: a second pass to write it would be for nothing.
        since = self._wrote.get(key, now) if "progress" in patch else now
        self._due[key] = min(self._due.get(key, now + _QUIET_SECONDS), since + _QUIET_SECONDS)
        wait = self._due[key] - now
        if wait > 0 and not urgent:
            self._add_after(key, wait)
            return None
        version = run["metadata"]["resourceVersion"]
        updated = await self._kube.patch_status(kind, namespace, name, patch, version)
        self._due.pop(key, None)
        self._wrote[key] = now
        for other in self._cache.put({**compact(kind, updated), "seen": time.monotonic()}) - {key}:
            self._add_after(other, 0)  # those that refer to this run; the watch's echo of this write is no news
        self._counts.moved(key, before, decision.status, self._kube.clock.now())
        await asyncio.gather(*(self._events.post(key, run, event) for event in decision.events))
        if urgent:
            self._add_after(key, 0)  # an intent is stored: act on it without waiting for the watch's echo
        return None
