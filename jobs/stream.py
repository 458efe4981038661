"""The sample stream of an RLRun as a role: a redis-server of the run's own, on the run's folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis.asyncio
from aiohttp import web

from qednano.errors import ConfigError, Stopped, Unavailable
from qednano.job import JobContext, Outcome, job
from qednano.llm.vllm import end_with_parent, free_port
from qednano.rl.own_redis import FOLDER, Address, known_address, new_password, settings, tell_address

PORT = 6379  # where a pod has an address of its own
_LOCK_SECONDS, _START_SECONDS, _ENDING_SECONDS, _TICK_SECONDS = 120.0, 300.0, 20.0, 0.2


def address_of(ctx: JobContext) -> Address:
    """What it was before, so that clients find it again; otherwise a new password, and on one machine a free port."""
    before = known_address(ctx.run_dir)
    alone = ctx.host != "127.0.0.1"
    port = PORT if alone else before.port if before else free_port()
    return Address(ctx.host, port, before.password if before else new_password())


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[int]:
    """The lock on a server's files, as a descriptor to hand to the server: two at once would tear them.

    Raises Unavailable when another still has it after two minutes.
    """
    with (folder / "lock").open("w") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"another redis-server still uses {folder}; end it") from None
                time.sleep(_TICK_SECONDS)
        yield file.fileno()


def start(ctx: JobContext, address: Address, lock: int) -> subprocess.Popen[bytes]:
    """redis-server with its settings on its standard input: no password in a file, an argument or the environment."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise ConfigError(
            "redis-server is not installed: apt-get install redis-server, or name a server in spec.stream.redis.url"
        )
    bind = "127.0.0.1" if ctx.host == "127.0.0.1" else "* -::*"
    process = subprocess.Popen(
        [binary, "-"], stdin=subprocess.PIPE, stdout=sys.stderr, pass_fds=[lock], preexec_fn=end_with_parent
    )
    assert process.stdin is not None
    process.stdin.write(settings(address, bind, ctx.run_dir / FOLDER).encode())
    process.stdin.close()
    return process


async def serve(ctx: JobContext, address: Address, process: subprocess.Popen[bytes]) -> None:
    """Tell the address once it answers, answer /health, and watch it until asked to stop.

    Raises Unavailable when it ends by itself.
    """
    client = redis.asyncio.Redis(host="127.0.0.1", port=address.port, password=address.password, socket_timeout=5)

    async def answers() -> bool:
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            return bool(await client.ping())
        return False

    async def health(_: web.Request) -> web.Response:
        return web.json_response({}, status=200 if await answers() else 503)

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1" if ctx.host == "127.0.0.1" else "0.0.0.0", ctx.port).start()
    began, told = time.monotonic(), False
    try:
        while not ctx.stopping.is_set():
            if process.poll() is not None:
                raise Unavailable(f"redis-server ended with {process.returncode}; the lines above say why")
            if not told and await answers():
                tell_address(ctx.run_dir, address)
                ctx.reporter.update(stage="Serving", message=f"Redis at {address.url}")
                told = True
            if not told and time.monotonic() - began > _START_SECONDS:
                raise Unavailable(f"redis-server did not answer for {_START_SECONDS:.0f} s; the lines above say why")
            await asyncio.sleep(_TICK_SECONDS)
    finally:
        await client.aclose()
        await runner.cleanup()


@job
def main(ctx: JobContext) -> Outcome:
    folder = ctx.run_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    with sole_user(folder) as lock:
        address = address_of(ctx)
        process = start(ctx, address, lock)
        try:
            asyncio.run(serve(ctx, address, process))
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING_SECONDS)
            process.kill()
            process.wait()
    raise Stopped("the stream was asked to stop; what it acknowledged is on disk")


if __name__ == "__main__":
    sys.exit(main())
