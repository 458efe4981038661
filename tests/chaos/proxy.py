"""A misbehaving network and API server: an HTTP proxy between an operator and the real one, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from tools.cluster.api_client import ApiClient

Fault = Callable[[str, str], int | None]
"""Method and path of a request to the status to answer instead of forwarding it; None forwards it."""

_HOP = {"transfer-encoding", "connection", "content-length", "content-encoding", "host", "authorization"}


class Proxy:
    """Forwards with the administrator's token. All switches may be set from any thread, at any time."""

    def __init__(self, upstream: ApiClient) -> None:
        self.fault: Fault = lambda method, path: None
        self.forgets: Callable[[str, str], bool] = lambda method, path: False  # what is done, but never answered
        self.forgotten = 0
        self.delay = 0.0  # seconds before each request but watches
        self.mute = False  # watches stay open and tell nothing, old and new ones
        self.lags: Callable[[str], bool] = lambda path: False  # watches, by path, that tell nothing until they may
        self.held = 0  # pieces of watches that had to wait so
        self.down = False  # connections break without an answer
        self.requests: list[tuple[str, str, int]] = []  # method, path, status
        self.swallowed = 0  # pieces of watches that were not handed on
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self.port = 0

    def start(self) -> Proxy:
        """Listen on a free port of this machine."""
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        """Drop every connection and end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def kubeconfig(self, target: Path) -> Path:
        """A kubeconfig that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        target.write_text(json.dumps(config))
        return target

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(self._close())

    async def _open(self) -> None:
        context = ssl.create_default_context(cafile=str(self._upstream.authority))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
        )
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in ("1", "true")
        body = await request.read()  # whole, before a fault may kill whoever sent it
        if self.down:
            _break(request)
            raise web.HTTPBadGateway
        status = self.fault(request.method, request.path)
        if status is not None:
            self.requests.append((request.method, request.path, status))
            return _refusal(status)
        if self.delay and not watch:
            await asyncio.sleep(self.delay)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        headers["Authorization"] = f"Bearer {self._upstream.token}"
        try:
            async with self._session.request(
                request.method, self._upstream.url + request.path_qs, data=body or None, headers=headers
            ) as answer:
                self.requests.append((request.method, request.path, answer.status))
                if self.forgets(request.method, request.path):
                    self.forgotten += 1
                    _break(request)
                    raise web.HTTPBadGateway
                return await (self._stream if watch else self._whole)(request, answer)
        except (aiohttp.ClientError, ConnectionError):  # the server behind is away, or whoever asked
            _break(request)
            raise web.HTTPBadGateway from None

    async def _whole(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.Response:
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP - {"content-encoding"}}
        return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for piece in _whole_events(answer):
            if self.down:
                _break(request)
                break
            if self.mute:
                self.swallowed += 1
                continue
            if self.lags(request.path):
                self.held += 1
            while self.lags(request.path):
                await asyncio.sleep(0.05)
            await response.write(piece)
        return response


async def _whole_events(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What comes, up to the last line that is whole: one of which half is swallowed would be no event but a fault."""
    rest = b""
    async for piece in answer.content.iter_any():
        lines, end, rest = (rest + piece).rpartition(b"\n")
        if end:
            yield lines + end


def _break(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _refusal(status: int) -> web.Response:
    reasons = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
    said = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reasons.get(status, "InternalError"),
        "message": "a fault that was planted",
        "code": status,
    }
    return web.json_response(said, status=status, headers={"Retry-After": "1"} if status == 429 else {})
