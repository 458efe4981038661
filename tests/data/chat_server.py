"""A chat server of the OpenAI protocol over real HTTP, in a thread: it plays teacher, filter, rubric writer and grader.

What it says depends on the request alone, so that a test knows every answer beforehand. `mischief` says what it does to
the n-th request instead; every request that was answered in full is kept in `answered`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from qednano.tiny import problems, teacher

TOKENS_IN, TOKENS_OUT = 7, 11
Mischief = Callable[[int, web.Request], Awaitable[web.StreamResponse | None]]

_PROBLEM = re.compile(r"n = \d+k[^.]*\. Prove [^.]*\.")
RUBRIC = {
    "checkpoints": [
        {"id": "substitute", "description": "Both terms are written with k and l.", "points": 3},
        {"id": "factor", "description": "The modulus is taken out as a factor.", "points": 4, "critical": True},
    ]
}


def proof_for(text: str, seed: int) -> str:
    """What the teacher writes: right or flawed, as the seed decides."""
    problem = problems.parse(_PROBLEM.search(text).group())
    return teacher.write(problem, random.Random(seed), flawed_percent=50)


def reply(body: dict) -> str:
    """The answer to a request, by what it asks for."""
    prompt = body["messages"][0]["content"]
    if '"computational"' in prompt:
        problem = problems.parse(_PROBLEM.search(prompt).group())
        verdict = dict.fromkeys(("incomplete", "wrong", "gaps", "disagreement", "computational"), False)
        verdict |= {"wrong": problem.m == 5, "difficulty": 1 + problem.m, "reason": f"the modulus is {problem.m}"}
        return json.dumps(verdict)
    if "marking scheme" in prompt:
        return json.dumps(RUBRIC)
    return proof_for(prompt, body.get("seed", 0))


class ChatServer:
    """Counts and answers; `url` is its base address."""

    def __init__(self, mischief: Mischief | None = None, delay: float = 0.0) -> None:
        self.mischief, self.delay = mischief, delay
        self.url = ""
        self.requests = 0
        self.in_flight = 0
        self.answered: list[dict] = []

    def settle(self) -> None:
        """Wait until all that clients have sent so far, dead ones too, is read and dealt with."""
        for _ in range(2):  # the first is accepted after their connections, the second read after their requests
            with contextlib.suppress(urllib.error.HTTPError):  # there is no such page
                urllib.request.urlopen(f"{self.url}/settle", timeout=30)
        deadline = time.monotonic() + 30
        while self.in_flight:
            assert time.monotonic() < deadline, f"{self.in_flight} requests are still in flight"
            time.sleep(0.005)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        try:
            return await self._answer(request)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        number, self.requests = self.requests, self.requests + 1
        body = await request.json()
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.mischief is not None and (spoilt := await self.mischief(number, request)) is not None:
            return spoilt
        text = reply(body)
        message = {"role": "assistant", "content": text, "reasoning_content": f"thinking about {len(text)} characters"}
        usage = {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT}
        self.answered.append(body)
        return web.json_response(
            {
                "id": f"chat-{number}",
                "object": "chat.completion",
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
        )


@contextlib.contextmanager
def chat_server(mischief: Mischief | None = None, delay: float = 0.0) -> Iterator[ChatServer]:
    """The server, while the context lasts."""
    server, ready, loop = ChatServer(mischief, delay), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", server.chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
