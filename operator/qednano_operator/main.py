"""The operator process: probes, lease, watches, queue; and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import kopf

from qednano.api import API_VERSION, KINDS
from qednano_operator import watch
from qednano_operator.cache import Cache, Key
from qednano_operator.engine import Engine
from qednano_operator.kube import Kube, KubeError, connect
from qednano_operator.lease import Lease
from qednano_operator.progress import ProgressPuller
from qednano_operator.queue import KeyedQueue
from qednano_operator.resync import keep_synced
from qednano_operator.server import Health
from qednano_operator.settings import Settings, parse

log = logging.getLogger("qednano_operator")

_STUCK_SECONDS = 120.0  # a key that no worker took for so long means that the workers hang
_CRD_POLL = 2.0


async def wait_for_kinds(kube: Kube, health: Health) -> None:
    """Return once all four kinds are served: kopf looks for them only once."""
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


async def lead(kube: Kube, settings: Settings, health: Health, stop: asyncio.Event) -> None:
    """Act as the leader until ``stop`` is set."""
    cache = Cache()
    queue: KeyedQueue[Key]
    puller = ProgressPuller(cache, changed=lambda key: queue.add(key))
    engine = Engine(kube, cache, settings.defaults, puller.reports, lambda key, wait: queue.add_after(key, wait))
    queue = KeyedQueue(engine.handle, settings.workers)
    health.sick = lambda: "the workers hang" if queue.oldest_seconds() > _STUCK_SECONDS else ""
    tasks = [
        asyncio.create_task(queue.run(), name="queue"),
        asyncio.create_task(puller.run(), name="progress"),
        asyncio.create_task(keep_synced(kube, cache, settings.namespaces, queue.add), name="resync"),
        asyncio.create_task(
            kopf.operator(
                registry=watch.registry(cache, queue.add),
                settings=watch.settings(),
                standalone=True,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                stop_flag=stop,
                identity=settings.identity,  # type: ignore[arg-type]  # else it asks who the user is: images name none
            ),
            name="watch",
        ),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    health.ready_reason = ""
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    for task in pending:
        if task.get_name() != "watch":  # kopf ends by its stop flag
            task.cancel()
    await asyncio.wait(pending, timeout=20)
    for task in done:
        task.result()


async def run(settings: Settings) -> int:
    """Run until a signal or the loss of the lease; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health()
    runner = await health.serve(settings.bind, settings.port)
    lag = asyncio.create_task(health.watch_loop())
    try:
        async with connect() as kube:
            return await _until_stopped(kube, settings, health, stop)
    finally:
        lag.cancel()
        await runner.cleanup()


async def _until_stopped(kube: Kube, settings: Settings, health: Health, stop: asyncio.Event) -> int:
    if not await _unless(stop, wait_for_kinds(kube, health)):
        return 0
    if not settings.elect:
        await lead(kube, settings, health, stop)
        return 0
    lease = Lease(kube, settings.lease_namespace, settings.lease_name, settings.identity)
    health.ready_reason = ""  # a standby is ready: it has nothing else to do
    if not await _unless(stop, lease.acquire()):
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
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if settings.log_level != "DEBUG":
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for each watch event otherwise
    return asyncio.run(run(settings))


if __name__ == "__main__":
    sys.exit(main())
