"""Stand-ins for rollout servers, over real HTTP: they answer like the proxy of the server role."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from aiohttp import web

from qednano.rl.pool import ServerRecord, announce

PROOFS = ["zero", "some", "all"]


class StandIn:
    """Answers at once (or when `gate` is set) with proofs taken in turn; `version` is stamped on answers."""

    def __init__(self, run_dir: Path, name: str, proofs=None, version: int = 0) -> None:
        self.run_dir, self.name, self.version = run_dir, name, version
        self.proofs = proofs or PROOFS
        self.requests: list[dict] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.drop = False
        self.finish_reason = "stop"
        self.model = ""

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        start = self.version
        await self.gate.wait()
        if self.drop:
            request.transport.close()
        choices = [
            {
                "index": index,
                "text": self.proofs[index % len(self.proofs)],
                "finish_reason": self.finish_reason,
                "token_ids": [index + 1, 2],
                "logprobs": {"token_logprobs": [-0.5, -0.25]},
            }
            for index in range(body["n"])
        ]
        headers = {"x-qednano-version-start": str(start), "x-qednano-version-end": str(self.version)}
        headers["x-qednano-model"] = self.model
        return web.json_response({"choices": choices}, headers=headers)

    async def tokenise(self, request: web.Request) -> web.Response:
        text = (await request.json())["messages"][0]["content"]
        return web.json_response({"tokens": [ord(letter) for letter in text], "token_strs": list(text)})

    async def load(self, request: web.Request) -> web.Response:
        return web.Response(status=404)

    async def __aenter__(self) -> StandIn:
        app = web.Application()
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/tokenize", self.tokenise)
        app.router.add_post("/qednano/load", self.load)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._beat = asyncio.create_task(self._heartbeat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beat.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._beat
        self.gate.set()
        await self._runner.cleanup()

    def announce(self) -> None:
        record = ServerRecord(self.name, self.url, self.version, time.time(), os.getpid(), self.model)
        announce(self.run_dir, record)

    async def _heartbeat(self) -> None:
        while True:
            self.announce()
            await asyncio.sleep(0.2)
