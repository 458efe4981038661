"""The operator process: probes, lease, watches, queue; and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from qednano.api import API_VERSION, KINDS
from qednano_operator import kueue, logs, manifests
from qednano_operator.cache import Cache, Key
from qednano_operator.engine import Engine
from qednano_operator.kube import Kube, KubeError, connect, speak_jobset, speak_kueue
from qednano_operator.lease import Lease
from qednano_operator.progress import ProgressPuller
from qednano_operator.queue import KeyedQueue
from qednano_operator.resync import Resync
from qednano_operator.server import Health
from qednano_operator.settings import Settings, parse
from qednano_operator.subject import prepare
from qednano_operator.watch import Watches
from qednano_operator.webhook import Webhook

log = logging.getLogger("qednano_operator")

_STUCK_SECONDS = 120.0  # a key that no worker took for so long means that the workers hang
_FINISH_SECONDS = 10.0  # for passes under way when the process is asked to stop: a pod has 30 s
_CRD_POLL = 2.0
_KUEUE_POLL = 30.0


async def wait_for_kinds(kube: Kube, health: Health) -> None:
    """Return once all four kinds are served."""
    wanted = {kind.plural for kind in KINDS.values()}
    told = ""
    while True:
        try:
            missing = wanted - await kube.served(API_VERSION)
            why = f"waiting for the CRDs of {', '.join(sorted(missing))} ({API_VERSION})" if missing else ""
        except KubeError as error:
            why = str(error)
        if not why:
            return
        if why != told:
            log.info("%s", why)
        told = health.ready_reason = why
        await asyncio.sleep(_CRD_POLL)


async def kueue_version(kube: Kube) -> str:
    """The newest version of Kueue's API that the cluster and this operator speak; empty without Kueue."""
    for version in kueue.VERSIONS:
        if "workloads" in await kube.served(f"{kueue.GROUP}/{version}"):
            return version
    return ""


async def has_job_sets(kube: Kube) -> bool:
    """Whether the cluster serves JobSets; they are spoken from then on."""
    served = "jobsets" in await kube.served(manifests.JOB_SET)
    if served:
        speak_jobset(manifests.JOB_SET)
    else:
        log.info("%s is not served: gangs are plain Jobs", manifests.JOB_SET)
    return served


async def wait_for_kueue(kube: Kube) -> None:
    """Return once Kueue is there: this process ends then in good order, and its successor watches what Kueue has."""
    log.info("waiting for the API of Kueue; runs with spec.scheduling.queueName stay queued")
    while True:
        await asyncio.sleep(_KUEUE_POLL)
        with contextlib.suppress(KubeError):
            if await kueue_version(kube):
                log.info("Kueue is there now: starting anew to watch it")
                return


async def lead(kube: Kube, settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Act as the leader until ``stop`` is set."""
    cache = Cache()
    if settings.kueue and (version := await kueue_version(kube)):
        cache.kueue = version
        speak_kueue(f"{kueue.GROUP}/{version}")
    defaults = replace(settings.defaults, job_sets=settings.defaults.job_sets and await has_job_sets(kube))
    queue: KeyedQueue[Key]
    puller = ProgressPuller(cache, kube.clock, changed=lambda key: queue.add(key))
    engine = Engine(kube, cache, defaults, puller.reports, lambda key, wait: queue.add_after(key, wait))
    queue = KeyedQueue(engine.handle, settings.workers, engine.about)
    resync = Resync(kube, cache, settings.namespaces, queue.add, settings.resync_seconds, settings.settle_seconds)
    watches = Watches(
        kube, cache, settings.namespaces, queue.add, resync.soon, settings.silence_seconds, partial(_listen, stop)
    )
    health.sick = lambda: "the workers hang" if queue.stuck_seconds() > _STUCK_SECONDS else resync.sick()
    await _first_of(
        watches.run(),
        _work(watches, queue, health),
        puller.run(),
        resync.run(),
        _stopped(stop, queue),
        *([wait_for_kueue(kube)] if settings.kueue and not cache.kueue else ()),
    )


async def _stopped(stop: asyncio.Event, queue: KeyedQueue[Key]) -> None:
    """Return when this process is asked to stop and has finished what it was writing."""
    await stop.wait()
    await queue.finish(_FINISH_SECONDS)


async def _work(watches: Watches, queue: KeyedQueue[Key], health: Health) -> None:
    """Handle runs once all that exists is known; this process is ready when it has looked at each of them."""
    health.ready_reason = "reading what exists"
    await watches.list_all()
    working = asyncio.create_task(queue.run())
    try:
        health.ready_reason = f"looking at {len(queue)} runs for the first time"
        await _first_of(queue.caught_up(), asyncio.shield(working))
        health.ready_reason = ""
        await working
    finally:
        working.cancel()


async def _first_of(*work: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
    """Return, or raise, with the first that ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _listen(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def run(settings: Settings) -> int:
    """Run until a signal or the loss of the lease; the exit code."""
    stop = asyncio.Event()
    _listen(stop)
    health = Health()
    runner = await health.serve(settings.bind, settings.port)
    lag = asyncio.create_task(health.watch_loop())
    try:
        async with connect() as kube, _webhook(kube, settings, health, stop):
            return await _until_stopped(kube, settings, health, stop)
    finally:
        lag.cancel()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _webhook(kube: Kube, settings: Settings, health: Health, stop: asyncio.Event) -> AsyncIterator[None]:
    """Serve the admission webhook, if it is wanted: every replica does, and is ready only then."""
    if settings.webhook is None:
        yield
        return
    webhook = Webhook(kube, settings.webhook, settings.defaults.profiles)

    def tell(reason: str) -> None:
        health.ready_reason = reason

    if not await _unless(stop, webhook.prepare(tell)):
        yield
        return
    runner = await webhook.serve(settings.bind)
    keeper = asyncio.create_task(webhook.keep())
    try:
        yield
    finally:
        keeper.cancel()
        await runner.cleanup()


async def _until_stopped(kube: Kube, settings: Settings, health: Health, stop: asyncio.Event) -> int:
    if not await _unless(stop, wait_for_kinds(kube, health)):
        return 0
    if not settings.elect:
        await lead(kube, settings, health, stop)
        return 0
    lease = Lease(kube, settings.lease_namespace, settings.lease_name, settings.identity)
    health.ready_reason = "asking for the lease"

    def stand_by() -> None:
        health.ready_reason = ""  # it has nothing else to do

    if not await _unless(stop, lease.acquire(stand_by)):
        return 0
    keeper = asyncio.create_task(lease.keep())
    leading = asyncio.create_task(lead(kube, settings, health, stop))
    lost = asyncio.create_task(lease.lost.wait())
    await asyncio.wait({leading, lost}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    if lease.lost.is_set():
        return 1  # whoever holds the lease acts now; nothing more may be written from here
    await leading
    keeper.cancel()
    lost.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeper
    await lease.release()
    return 0


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; False when ``stop`` came first."""
    task = asyncio.create_task(work)
    stopper = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopper}, return_when=asyncio.FIRST_COMPLETED)
    stopper.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``qednano-operator``."""
    settings = parse(argv)
    logs.set_up(settings.log_level, settings.log_format)
    prepare()
    return asyncio.run(run(settings))


if __name__ == "__main__":
    sys.exit(main())
