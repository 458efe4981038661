"""Speaks vLLM's protocol without a model: for tests that need many servers, exact timing or misbehaviour.

With tests/llm/stand_in first on PYTHONPATH, a server role with GPUs starts this as its vLLM. A token is a byte. An
answer is a proof of the tiny problem in the prompt, at a pace; the log-prob of each token says which weights made it:
-(1 + version / 1000). Everything asked of it is a line of STAND_IN_LOG.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re

from aiohttp import web

from qednano.errors import DataError
from qednano.tiny import problems, teacher

PACE = float(os.environ.get("STAND_IN_TOKENS_PER_SECOND", "2000"))
LOG = os.environ.get("STAND_IN_LOG", "")
REFUSE = os.environ.get("STAND_IN_REFUSE", "")  # such as "/update_weights=1": how often a route fails
CHUNK = int(os.environ.get("STAND_IN_CHUNK", "16"))
END = 0  # the token after a proof
_PROBLEM = re.compile(r"n = \d+k[^\n]*?\. Prove [^\n]*?\.")


class Engine:
    """What vLLM's engine would hold: weights by version, paused or not, who is being answered."""

    def __init__(self) -> None:
        self.version = 0
        self.going = asyncio.Event()
        self.going.set()
        self.refusals = {path: int(times) for path, _, times in (item.partition("=") for item in REFUSE.split())}

    def log(self, **event: object) -> None:
        if LOG:
            with open(LOG, "a") as file:
                file.write(json.dumps({"pid": os.getpid(), **event}) + "\n")


def proof(asked: bytes, seed: int) -> bytes:
    """A proof of the problem that is asked, flawed half of the time; the same for the same seed."""
    rng = random.Random(f"{asked!r}/{seed}")
    found = _PROBLEM.search(asked.decode(errors="replace"))
    try:
        return teacher.write(problems.parse(found[0]), rng, 50).encode() if found else b"?"
    except DataError:
        return b"?"


def answers(prompt: bytes, seed: int, n: int) -> list[bytes]:
    """What is left to write of `n` proofs. What stands behind byte 1 is written already, by one of those seeds."""
    asked, _, begun = prompt.partition(b"\x01")
    if not begun:
        return [proof(asked, seed + index) for index in range(n)]
    candidates = (proof(asked, seed - len(begun) + index) for index in range(64))
    return [next((text for text in candidates if text.startswith(begun)), begun)[len(begun) :]] * n


def build(engine: Engine) -> web.Application:
    """The routes of vLLM's server that the server role uses."""

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = bytes(token for token in body["prompt"] if 0 < token < 256)
        n, limit = body.get("n", 1), body["max_tokens"]
        engine.log(event="complete", n=n, prompt=len(body["prompt"]), seed=body.get("seed"))
        texts = [text[:limit] for text in answers(prompt, body.get("seed") or 0, n)]
        response = None
        if body.get("stream"):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
        parts: list[list[dict]] = [[] for _ in range(n)]
        try:
            for place in range(0, max(map(len, texts)) + 1, CHUNK):
                await asyncio.sleep(CHUNK / PACE)
                await engine.going.wait()
                for index, text in enumerate(texts):
                    if place > len(text):
                        continue
                    piece = text[place : place + CHUNK]
                    ids, done = list(piece), place + CHUNK > len(text)
                    ended = done and len(text) < limit
                    ids += [END] if ended else []
                    choice = {
                        "index": index,
                        "text": piece.decode(),
                        "token_ids": ids,
                        "logprobs": {"token_logprobs": [-(1 + engine.version / 1000)] * len(ids)},
                        "finish_reason": ("stop" if ended else "length") if done else None,
                    }
                    parts[index].append(choice)
                    if response is not None:
                        await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        except (asyncio.CancelledError, ConnectionResetError):
            engine.log(event="aborted")
            raise
        engine.log(event="answered")
        if response is not None:
            await response.write(b"data: [DONE]\n\n")
            return response
        return web.json_response({"choices": [_whole(index, pieces) for index, pieces in enumerate(parts)]})

    async def tokenise(request: web.Request) -> web.Response:
        text = (await request.json())["messages"][-1]["content"] + "\x01"
        ids = list(text.encode())
        return web.json_response({"tokens": ids, "token_strs": list(text)})

    async def pause(_: web.Request) -> web.Response:
        engine.going.clear()
        engine.log(event="pause")
        return web.json_response({})

    async def resume(_: web.Request) -> web.Response:
        engine.going.set()
        engine.log(event="resume")
        return web.json_response({})

    async def rpc(request: web.Request) -> web.Response:
        folder = (await request.json())["kwargs"]["folder"]
        engine.log(event="load", folder=folder)
        while os.path.exists(os.path.join(folder, "held")):  # a model that takes long
            await asyncio.sleep(0.01)
        if os.path.exists(os.path.join(folder, "broken")):
            return web.json_response({"error": "RuntimeError: shapes differ"}, status=500)
        if found := re.search(r"/v(\d+)$", folder):
            engine.version = int(found[1])
        return web.json_response({})

    async def phase(request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        engine.log(event=request.path, body=body)
        if engine.refusals.get(request.path):
            engine.refusals[request.path] -= 1
            return web.json_response({"error": "RuntimeError: NCCL error: unhandled system error"}, status=500)
        return web.json_response({})

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes(
        [
            web.get("/health", health), web.post("/v1/completions", complete), web.post("/tokenize", tokenise),
            web.post("/pause", pause), web.post("/resume", resume), web.post("/collective_rpc", rpc),
            web.post("/init_weight_transfer_engine", phase), web.post("/start_weight_update", phase),
            web.post("/update_weights", phase), web.post("/finish_weight_update", phase),
        ]
    )  # fmt: skip
    return app


def _whole(index: int, pieces: list[dict]) -> dict:
    return {
        "index": index,
        "text": "".join(piece["text"] for piece in pieces),
        "token_ids": [token for piece in pieces for token in piece["token_ids"]],
        "logprobs": {"token_logprobs": [p for piece in pieces for p in piece["logprobs"]["token_logprobs"]]},
        "finish_reason": pieces[-1]["finish_reason"] if pieces else "stop",
    }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    known, _ = parser.parse_known_args()
    runner = web.AppRunner(build(Engine()), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, known.host, known.port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
