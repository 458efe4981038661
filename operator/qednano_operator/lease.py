"""Leader election on a Lease: one operator acts, the others stand by."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from qednano_operator import metrics
from qednano_operator.decision import Object
from qednano_operator.kube import Conflict, Kube, KubeError, NotFound

log = logging.getLogger(__name__)

# A killed leader is replaced after DURATION + 2 RETRY at the latest, which leaves some of the promised 20 s to a busy
# machine. A leader that can not renew stops RENEW_DEADLINE after its last success, well before anybody else begins.
DURATION, RENEW_DEADLINE, RETRY = 12.0, 8.0, 2.0


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Lease:
    """The right to act, held while it is renewed in time.

    Clocks of other machines are never compared: a lease has expired when its record has not changed for its
    duration on this process's own monotonic clock.
    """

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[str, float] = ("", 0.0)  # resourceVersion last seen, and since when
        self._held: Object | None = None
        self.lost = asyncio.Event()

    async def acquire(self, stand_by: Callable[[], None] = lambda: None) -> None:
        """Return once this process holds the lease; ``stand_by`` is called whenever somebody else does."""
        while True:
            try:
                if await self._try():
                    metrics.LEADER.set(1)
                    log.info("leading as %s", self._identity)
                    return
                stand_by()
            except Conflict:
                pass  # somebody else was faster
            except KubeError as error:
                log.warning("the lease %s can't be had: %s", self._name, error)
            await asyncio.sleep(RETRY)

    async def keep(self) -> None:
        """Renew until cancelled; sets ``lost`` and returns when that fails for too long."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < RENEW_DEADLINE:
            await asyncio.sleep(RETRY)
            try:
                async with asyncio.timeout(RETRY * 2):
                    if not await self._try():
                        break
                renewed = time.monotonic()
            except (KubeError, TimeoutError) as error:
                log.warning("the lease %s was not renewed: %s", self._name, error or type(error).__name__)
        log.error("the lease %s is lost; this process stops acting", self._name)
        metrics.LEADER.set(0)
        self._held = None
        self.lost.set()

    async def release(self) -> None:
        """Give the lease up, so that another process need not wait for it to expire."""
        metrics.LEADER.set(0)
        if self._held is None:
            return
        spec = {**self._held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(RETRY * 2):
                await self._kube.replace({**self._held, "spec": spec})
        self._held = None

    async def _try(self) -> bool:
        """Take or renew the lease; False while somebody else holds it."""
        if self._held is not None:
            spec = self._held["spec"]
            record = self._record(spec, spec["leaseTransitions"], self._held["metadata"]["resourceVersion"])
            self._held = None
            try:
                self._held = await self._kube.replace(record)
                return True
            except (Conflict, NotFound):
                pass  # somebody wrote it meanwhile: look who
        try:
            lease = await self._kube.get("Lease", self._namespace, self._name)
        except NotFound:
            self._held = await self._kube.create(self._record({}, transitions=0))
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        expired = time.monotonic() - self._seen[1] >= float(spec.get("leaseDurationSeconds") or DURATION)
        if holder not in ("", self._identity) and not expired:
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        self._held = await self._kube.replace(
            self._record(spec if holder == self._identity else {}, transitions, version)
        )
        return True

    def _record(self, old: Object, transitions: int, version: str = "") -> Object:
        now = _micro_time()
        guarded = {"resourceVersion": version} if version else {}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace, **guarded},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION),
                "acquireTime": old.get("acquireTime") or now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
