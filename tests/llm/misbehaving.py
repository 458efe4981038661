"""An HTTP server that misbehaves on purpose, in the ways that real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Misbehaving:
    """Answers the k-th request with the k-th behaviour; the last one stays."""

    def __init__(self, *behaviours: Answer) -> None:
        self.behaviours, self.in_flight, self.most = list(behaviours), 0, 0
        self.requests: list[tuple[float, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []

    @property
    def bodies(self) -> list[Any]:
        """What each request said."""
        return [body for _, body in self.requests]

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.behaviours[min(len(self.requests), len(self.behaviours) - 1)]
        self.requests.append((time.monotonic(), None))
        place = len(self.requests) - 1
        self.headers.append(request.headers)
        self.paths.append(request.path)
        self.requests[place] = (self.requests[place][0], await request.json())
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            return await behaviour(request)
        finally:
            self.in_flight -= 1


@contextlib.asynccontextmanager
async def endpoint(*behaviours: Answer) -> AsyncIterator[tuple[Misbehaving, str]]:
    """The server and its address."""
    server = Misbehaving(*behaviours)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/{path:.*}", server)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def completion(n: int = 1, **changes: object) -> dict[str, Any]:
    """A sound answer to a request for completions by token ids."""
    choice = {"text": "ab", "finish_reason": "stop", "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.5, -0.25]}}
    return {"choices": [{"index": index} | choice | changes for index in range(n)]}


def chat(text: str | None = "QED", **message: object) -> dict[str, Any]:
    """A sound answer to a chat."""
    choice = {"message": {"role": "assistant", "content": text} | message, "finish_reason": "stop"}
    return {"model": "m-1", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def status(code: int, text: str = "no", **headers: str) -> Answer:
    """A status, with headers whose underscores are dashes."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=code, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def says(body: object, **headers: str) -> Answer:
    """JSON."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, headers=headers)

    return answer


def sends(raw: bytes, content_type: str = "application/json") -> Answer:
    """Bytes of any kind, with status 200."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=raw, content_type=content_type)

    return answer


def streams(*events: object, cut: bool = False, pause: float = 0.0, end: bool = True) -> Answer:
    """Server-sent events; `cut` breaks the connection behind them, `pause` seconds lie between two."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            data = event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
            await response.write(data)
            await asyncio.sleep(pause)
        if cut:
            request.transport.abort()
        elif end:
            await response.write(b"data: [DONE]\n\n")
        return response

    return answer


def delta(text: str = "", finish_reason: str | None = None, **fields: str) -> dict[str, Any]:
    """A piece of a streamed chat."""
    return {"choices": [{"index": 0, "delta": {"content": text} | fields, "finish_reason": finish_reason}]}


async def hang(_: web.Request) -> web.Response:
    """Never answers."""
    await asyncio.sleep(60)
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    """Closes in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"te')
    request.transport.close()
    return response


async def reset(request: web.Request) -> web.StreamResponse:
    """Resets the connection before any answer."""
    request.transport.abort()
    return web.Response()


def drip(body: object, seconds: float) -> Answer:
    """Sends the body in ten pieces, with a tenth of `seconds` before each."""

    async def answer(request: web.Request) -> web.StreamResponse:
        raw = json.dumps(body).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(raw))})
        await response.prepare(request)
        step = len(raw) // 10 + 1
        for start in range(0, len(raw), step):
            await asyncio.sleep(seconds / 10)
            await response.write(raw[start : start + step])
        return response

    return answer
