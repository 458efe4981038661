"""A chat server that does nothing but wait: so many slots, each held for a fixed time, in a process of its own.

Real HTTP/1.1 with connections kept alive, but no framework, so that what a client can do is measured and not what the
server can: it costs less than 0.1 ms a request. Requests beyond the slots wait in order, as in a real one.

    python -m bench.paced_server --slots 512 --seconds 0.05     # prints its address, serves until its input ends

`drive` is the peer that tells what such a server can give on a machine: a load generator that writes the same bytes
over and over and reads no more than it must.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PROMPT_TOKENS, COMPLETION_TOKENS = 7, 11


def answer(text: str) -> bytes:
    """A whole HTTP answer with a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 18}
    return _http({"id": "paced", "object": "chat.completion", "model": "paced", "choices": [choice], "usage": usage})


def _http(value: Any) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Slots:
    """Which requests are served now and which wait."""

    def __init__(self, slots: int, seconds: float) -> None:
        self.free, self.seconds, self.answered = slots, seconds, 0
        self._idle, self._counted = 0.0, time.monotonic()
        self.waiting: deque[_Connection] = deque()

    def enter(self, connection: _Connection) -> None:
        """A request has come."""
        if self.free:
            self._free(-1)
            self._hold(connection)
        else:
            self.waiting.append(connection)

    def _hold(self, connection: _Connection) -> None:
        asyncio.get_running_loop().call_later(self.seconds, self._done, connection)

    def _done(self, connection: _Connection) -> None:
        self.answered += 1
        connection.reply()
        while self.waiting:
            following = self.waiting.popleft()
            if not following.lost:
                self._hold(following)
                return
        self._free(1)

    def _free(self, change: int) -> None:
        now = time.monotonic()
        self._idle += self.free * (now - self._counted)
        self._counted = now
        self.free += change

    def stats(self) -> dict[str, float]:
        """answered; idle: slot-seconds that nobody used; now: seconds by the same clock; cpu: its process's seconds."""
        self._free(0)
        return {"answered": self.answered, "idle": self._idle, "now": self._counted, "cpu": time.process_time()}


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, told apart by their Content-Length."""

    def __init__(self, slots: Slots, payload: bytes) -> None:
        self._slots, self._payload = slots, payload
        self._rest = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._rest += data
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._rest[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._rest) < end + 4 + length:
            return
        self._rest = self._rest[end + 4 + length :]
        if head.startswith(b"get /stats"):
            self._transport.write(_http(self._slots.stats()))
        else:
            self._slots.enter(self)

    def reply(self) -> None:
        """The answer to the request that was read last."""
        if not self.lost:
            self._transport.write(self._payload)


async def serve(slots: int, seconds: float, text: str, ended: asyncio.Event) -> None:
    """Serve on a free port, which is printed, until `ended`."""
    state, payload = Slots(slots, seconds), answer(text)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(state, payload), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    server.close()


@dataclass(frozen=True)
class PacedServer:
    """A running one. `capacity`: answers a second that its slots allow."""

    url: str
    slots: int
    seconds: float

    @property
    def capacity(self) -> float:
        return self.slots / self.seconds

    def busy_share(self, before: dict[str, float], after: dict[str, float]) -> float:
        """Share of its slots that were in use between two `stats`."""
        return 1 - (after["idle"] - before["idle"]) / (self.slots * (after["now"] - before["now"]))

    def stats(self) -> dict[str, float]:
        """What `Slots.stats` gives, as of now."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=30) as got:
            return json.load(got)


@contextlib.contextmanager
def paced_server(slots: int, seconds: float, text: str = "QED") -> Iterator[PacedServer]:
    """Start one in its own process and end it with the block."""
    command = [sys.executable, "-m", "bench.paced_server", "--slots", str(slots), "--seconds", str(seconds)]
    process = subprocess.Popen([*command, "--text", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        yield PacedServer(process.stdout.readline().strip(), slots, seconds)
    finally:
        process.stdin.close()
        process.wait(10)


class _Driver(asyncio.Protocol):
    """Sends the same request again as soon as its answer is there."""

    def __init__(self, request: bytes, count: list[int]) -> None:
        self._request, self._count = request, count
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            end = data.find(b"\r\n\r\n")
            at = data.find(b"Content-Length:")
            self._missing = end + 4 + int(data[at + 15 : data.find(b"\r\n", at)])
        self._missing -= len(data)
        if not self._missing:
            self._count[0] += 1
            self._transport.write(self._request)


async def drive(url: str, in_flight: int, seconds: float) -> float:
    """Answers a second that the peer draws from a server with so many requests in flight."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": "paced", "messages": [{"role": "user", "content": "Prove it."}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    count, loop = [0], asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: _Driver(request, count), host, int(port)) for _ in range(in_flight)]
    await asyncio.sleep(1.0)
    before, started = count[0], time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (count[0] - before) / (time.perf_counter() - started)
    for transport, _ in made:
        transport.abort()
    return rate


def peer(url: str, in_flight: int, seconds: float = 4.0) -> float:
    """`drive` in a process of its own."""
    code = f"import asyncio, bench.paced_server as p; print(asyncio.run(p.drive({url!r}, {in_flight}, {seconds})))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--text", default="QED")
    options = parser.parse_args()

    async def run() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def watch() -> None:
            sys.stdin.read()  # until whoever started this is gone
            loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=watch, daemon=True).start()
        await serve(options.slots, options.seconds, options.text, ended)

    asyncio.run(run())


if __name__ == "__main__":
    main()
