"""/metrics, /healthz and /readyz on one port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from qednano_operator import metrics

_LAG_INTERVAL = 1.0


class Health:
    """What the probes are told: why this process is unwell, or nothing."""

    def __init__(self) -> None:
        self.ready_reason = "starting"
        self.sick: Callable[[], str] = lambda: ""

    def app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def serve(self, bind: str, port: int) -> web.AppRunner:
        """Listen; close the returned runner to stop."""
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, bind, port).start()
        return runner

    async def watch_loop(self) -> None:
        """Measure how late the event loop wakes up, until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LAG_INTERVAL)
            metrics.LOOP_LAG.set(max(0.0, time.monotonic() - before - _LAG_INTERVAL))

    async def _healthz(self, _: web.Request) -> web.Response:
        reason = self.sick()
        return web.Response(status=500 if reason else 200, text=(reason or "ok") + "\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.ready_reason else 200, text=(self.ready_reason or "ok") + "\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
