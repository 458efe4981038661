"""How much of a paced server the client can use, and what a request costs it: `python -m bench.data_generation`.

The server (bench/paced_server.py, real HTTP, a process of its own) has 512 slots. Measured at 1,000 in flight:

1. Slots of 50 ms: 10,240 answers a second, which is ten times what one process at 1 ms of CPU a request could take.
   Reported beside what a peer that does next to nothing draws from the same server, and with the CPU of a request: the
   client's one core is the limit here.
2. The same slots at a pace of half of what the client drew there, as on this machine now: some 0.3 s on two idle cores.
   95 % of the capacity has to be used, and of the slots' time by the server's own account. Lost turns and needless
   retries show here.
3. Memory after 1,000 requests and after 100,000 (10,000 with --quick).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.figures import report
from bench.paced_server import COMPLETION_TOKENS, PROMPT_TOKENS, PacedServer, paced_server, peer
from qednano.api.language import Price
from qednano.llm.chat import ChatAnswer, ChatParams
from qednano.llm.client import LlmClient
from qednano.llm.flow import run_bounded

SLOTS, IN_FLIGHT = 512, 1000
PROBLEM = "Let n and x be integers with n = 7k + 3 and x = 7l + 1. Prove that 7 divides 3n + 5x. " * 8


@dataclass(frozen=True)
class Drawn:
    """Between first and last thousand: answers a second, share of the slots in use, CPU seconds of an answer."""

    per_second: float
    busy: float
    cpu_per_request: float
    tokens: int


def resident_mib() -> float:
    """Memory that this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def questions(count: int) -> Iterator[str]:
    """Texts that differ, made as they are pulled."""
    return (f"{number}: {PROBLEM}" for number in range(count))


async def draw(server: PacedServer, count: int) -> Drawn:
    """Ask `count` questions through the client, `IN_FLIGHT` at once."""
    price = Price(input_per_million="0.15", output_per_million="0.6")
    taken, tokens, marks, looks = 0, 0, [], []
    async with LlmClient(server.url, model="paced", role="bench", max_concurrent=IN_FLIGHT, price=price) as client:

        async def ask(question: str) -> ChatAnswer:
            return await client.chat([{"role": "user", "content": question}], ChatParams(max_tokens=1024))

        async for answer in run_bounded(questions(count), ask, IN_FLIGHT):
            taken += 1
            tokens += answer.prompt_tokens + answer.completion_tokens
            if taken in (IN_FLIGHT, count - IN_FLIGHT):
                marks.append((time.perf_counter(), time.process_time()))
                looks.append(await asyncio.to_thread(server.stats))
    if taken != count or tokens != count * (PROMPT_TOKENS + COMPLETION_TOKENS):
        raise SystemExit(f"{taken} answers with {tokens} tokens to {count} questions")
    (began, cpu_began), (ended, cpu_ended) = marks
    steady = count - 2 * IN_FLIGHT
    return Drawn(steady / (ended - began), server.busy_share(*looks), (cpu_ended - cpu_began) / steady, tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests for the figure of memory")
    many = 10_000 if parser.parse_args().quick else 100_000

    with paced_server(SLOTS, 0.05) as server:
        limit = peer(server.url, IN_FLIGHT)
        fast = asyncio.run(draw(server, 12_000))
        first = resident_mib()
        asyncio.run(draw(server, 2 * IN_FLIGHT + 1000))
        few_mib = resident_mib()
        asyncio.run(draw(server, many))
        many_mib = resident_mib()
    print(
        f"50 ms, {SLOTS} slots: {server.capacity:.0f}/s by its slots, the peer draws {limit:.0f}/s, "
        f"the client {fast.per_second:.0f}/s at {fast.cpu_per_request * 1000:.2f} ms of CPU a request"
    )
    pace = 2 * SLOTS / fast.per_second
    with paced_server(SLOTS, pace) as server:
        half = asyncio.run(draw(server, 2 * IN_FLIGHT + round(20 * server.capacity)))
    print(
        f"{pace * 1000:.0f} ms, {SLOTS} slots: {half.per_second:.0f}/s of {server.capacity:.0f}/s, "
        f"{half.busy:.1%} of the slots in use"
    )
    print(f"memory: {first:.0f} MiB at first, {few_mib:.0f} MiB after 3,000, {many_mib:.0f} MiB after {many:,} more")
    return report(
        "data_generation",
        {
            "capacity used at half the pace": half.per_second / server.capacity,
            "slots in use at half the pace": half.busy,
            "CPU ms a request": fast.cpu_per_request * 1000,
            "memory, many over few": many_mib / few_mib,
            "share of the peer at 50 ms": fast.per_second / limit,
            "cores used at 50 ms": fast.per_second * fast.cpu_per_request,
        },
        {
            "capacity used at half the pace": (">=", 0.95),
            "slots in use at half the pace": (">=", 0.95),
            "CPU ms a request": ("<=", 1.0),
            "memory, many over few": ("<=", 1.1),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
