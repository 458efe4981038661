"""A summariser for the tiny task: an endpoint of the OpenAI protocol that keeps the lines of a proof as they are.

It is told the summary so far and the newest turn, one behind the other, and answers with their lines without the empty
ones. So a state of the reasoning cache is the proof as far as it was written, mistakes included.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

PROMPT = "{{ summary }}\n{{ reasoning }}"
"""The summarise prompt that it expects."""


async def _chat(request: web.Request) -> web.Response:
    told = (await request.json())["messages"][-1]["content"]
    kept = "\n".join(line.strip() for line in told.splitlines() if line.strip())
    message = {"role": "assistant", "content": kept}
    return web.json_response(
        {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0},
        }
    )


@contextmanager
def line_keeper() -> Iterator[str]:
    """Its address while the block runs."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", _chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
