"""A rollout server that only waits: so many sequences at once, each at a fixed speed, in a process of its own.

It speaks what the actor asks of vLLM (/tokenize, /v1/completions with token ids and log-probs), follows the run's
weights as a real one does and announces itself in the pool, but generates nothing and costs next to no CPU. So what
is measured beside it does not share its cores with generation. Sequences beyond the slots wait in order.

    python -m bench.paced_rollouts RUN_DIR --slots 128 --tokens 64 --seconds 1.5   # serves until its input ends
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from qednano.data.schema import ProblemRow
from qednano.grading.interface import FULL_SCORE, Grade
from qednano.llm.client import VERSION_END, VERSION_START
from qednano.rl.pool import ServerRecord, announce
from qednano.rl.weights import latest_version

VOCABULARY = 400  # the tiny model's has a few more
HEARTBEAT_SECONDS, LATEST_POLL_SECONDS = 1.0, 0.1


class Noise:
    """A grader to go with it, as an entry point: points that depend on the letters alone, so that groups vary."""

    name = "noise"

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """0 to 7 points."""
        return Grade(sum(map(ord, proof)) % (FULL_SCORE + 1))

    async def close(self) -> None:
        """Nothing is held."""


class Paced:
    """The server's state: its slots and the weights it claims to have."""

    def __init__(self, run_dir: Path, slots: int, tokens: int, seconds: float) -> None:
        self.run_dir, self.tokens, self.seconds = run_dir, tokens, seconds
        self.slots = asyncio.Semaphore(slots)
        self.version = latest_version(run_dir)
        self.random = random.Random(0)
        self.url = ""

    async def complete(self, request: web.Request) -> web.Response:
        """`n` answers of `tokens` tokens, each in a slot of its own for `seconds`."""
        body, start = await request.json(), self.version
        await asyncio.gather(*(self._sequence() for _ in range(body["n"])))
        choices = [self._choice(index) for index in range(body["n"])]
        stamps = {VERSION_START: str(start), VERSION_END: str(self.version)}
        return web.json_response({"choices": choices}, headers=stamps)

    async def _sequence(self) -> None:
        async with self.slots:
            await asyncio.sleep(self.seconds)

    def _choice(self, index: int) -> dict[str, object]:
        ids = [self.random.randrange(VOCABULARY) for _ in range(self.tokens)]
        text = "".join(chr(97 + token % 26) for token in ids)
        logprobs = {"token_logprobs": [-3.7] * self.tokens}
        return {"index": index, "text": text, "finish_reason": "stop", "token_ids": ids, "logprobs": logprobs}

    async def tokenise(self, request: web.Request) -> web.Response:
        """A prompt of twenty tokens, whatever is asked."""
        ids = list(range(10, 30))
        return web.json_response({"tokens": ids, "token_strs": [str(token) for token in ids]})

    async def follow(self) -> None:
        """New weights as soon as they are there; a heartbeat."""
        told = 0.0
        while True:
            version = latest_version(self.run_dir)
            if version != self.version or time.monotonic() - told > HEARTBEAT_SECONDS:
                self.version, told = version, time.monotonic()
                announce(self.run_dir, ServerRecord("rollout-0", self.url, version, time.time(), os.getpid()))
            await asyncio.sleep(LATEST_POLL_SECONDS)

    async def serve(self) -> None:
        """Serve on a free port until standard input ends."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/tokenize", self.tokenise)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        following = asyncio.create_task(self.follow())
        await asyncio.to_thread(sys.stdin.read)
        following.cancel()
        await runner.cleanup()


@contextlib.contextmanager
def paced_rollouts(run_dir: Path, slots: int, tokens: int, seconds: float) -> Iterator[None]:
    """One in its own process while the block runs; it is in the run's pool as soon as it is ready."""
    command = [sys.executable, "-m", "bench.paced_rollouts", str(run_dir)]
    settings = ["--slots", str(slots), "--tokens", str(tokens), "--seconds", str(seconds)]
    process = subprocess.Popen([*command, *settings], stdin=subprocess.PIPE)
    assert process.stdin
    try:
        yield
    finally:
        process.stdin.close()
        process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--slots", type=int, default=128, help="sequences at once")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--seconds", type=float, default=1.0, help="that an answer takes")
    args = parser.parse_args()

    async def run() -> None:
        await Paced(args.run_dir, args.slots, args.tokens, args.seconds).serve()

    asyncio.run(run())


if __name__ == "__main__":
    main()
