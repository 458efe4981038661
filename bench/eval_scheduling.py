"""How well an evaluation keeps a server of limited pace busy, at what cost in CPU and memory.

    python -m bench.eval_scheduling [--quick]

A paced server in a process of its own answers 512 questions at once, each as slowly as its tokens take. A mix of all
scaffolds asks it. Bars: in the time between the first answers and the last sample's beginning at least 95 % of the
server's capacity is used; orchestration takes at most 2 ms of CPU a call; and 10,000 problems with 8 samples take no
more memory at their end than after a quarter, but for 60 MiB of scores and places.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp
from aiohttp import web

from bench.figures import report
from bench.simulated import Judge, Solver, Verifier, World, is_right, problem_text
from qednano.api.scaffold import Scaffold as Spec
from qednano.data.schema import ProblemRow
from qednano.evals.run import Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds import Scaffold, scaffold_of
from qednano.evals.scaffolds.interface import Solve
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked
from qednano.grading.interface import Grade
from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.progress import Reporter

SLOTS = 512
TOKENS_A_SECOND = 2500.0  # of one answer: 10,000 tokens take 4 s
MIX: list[dict] = [
    {"type": "SinglePass"},
    {"type": "ReasoningCache"},
    {"type": "VerifyRefine"},
    {"type": "RSA", "rsa": {"population": 4, "rounds": 2, "block": 2}},
    {"type": "Nomos", "nomos": {"solutions": 8, "perfect": 4, "top": 6}},
    {"type": "SelfCheck"},
    {"type": "StaticAgent"},
    {"type": "PlanningAgent"},
    {"type": "Adaptive", "adaptive": {"worth": 16, "cohort": 16}},
]


def serve(ready: multiprocessing.connection.Connection) -> None:
    """The paced server: `/chat` answers, `/busy` says what share of its slots was used since it was last asked."""
    models = {"solver": Solver(World()), "verifier": Verifier(World()), "judge": Judge(World())}
    slots = asyncio.Semaphore(SLOTS)
    state = {"busy": 0, "used": 0.0, "since": time.monotonic(), "started": time.monotonic(), "calls": 0}

    def account(change: int) -> None:
        now = time.monotonic()
        state["used"] += state["busy"] * (now - state["since"])
        state["since"] = now
        state["busy"] += change

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        async with slots:
            account(1)
            answer = await models[body["name"]].chat(body["messages"], ChatParams(1, seed=body["seed"]))
            await asyncio.sleep(answer.completion_tokens / TOKENS_A_SECOND)
            account(-1)
        state["calls"] += 1
        return web.json_response(asdict(answer))

    async def busy(_: web.Request) -> web.Response:
        account(0)
        told = {"used": state["used"], "seconds": time.monotonic() - state["started"], "calls": state["calls"]}
        state.update(used=0.0, started=time.monotonic())
        return web.json_response(told)

    async def main() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/chat", chat)
        app.router.add_get("/busy", busy)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        ready.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(main())


class Paced:
    """A chat model behind the paced server."""

    def __init__(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        self._session, self._url, self.name = session, url, name

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        body = {"name": self.name, "messages": [dict(message) for message in messages], "seed": params.seed}
        async with self._session.post(f"{self._url}/chat", json=body) as answer:
            return ChatAnswer(**await answer.json())


class Marks:
    """A grader that can read the simulated models' tags."""

    name = "marks"

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        return Grade(7 if is_right(proof) else 0)

    async def close(self) -> None:
        pass


class Mixed:
    """Scaffolds in turn, a cohort of 16 each."""

    cohort = 16

    def __init__(self) -> None:
        self._scaffolds: list[Scaffold] = [scaffold_of(Spec.model_validate(spec)) for spec in MIX]
        self.begun = 0
        self.last_begun = 0.0

    def begin(self, samples: int) -> Solve:
        self.begun += 1
        self.last_begun = time.monotonic()
        return self._scaffolds[self.begun % len(self._scaffolds)].begin(samples)


def problems(count: int) -> list[ProblemRow]:
    rates = (0.05, 0.3, 0.6, 0.9)
    return [ProblemRow(id=f"p{n}", problem=problem_text(f"p{n}", rates[n % 4])) for n in range(count)]


async def busy_share(count: int) -> dict[str, float]:
    """Share of capacity in the steady part, and CPU seconds a call."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    url = here.recv()
    scaffold = Mixed()
    connector = aiohttp.TCPConnector(limit=0)
    with tempfile.TemporaryDirectory() as folder:
        async with aiohttp.ClientSession(connector=connector) as session:
            models = {
                name: Asked(Paced(session, url, name), name, ChatParams(1)) for name in ("solver", "verifier", "judge")
            }
            cast = {
                SOLVER: models["solver"],
                SUMMARISER: models["solver"],
                VERIFIER: models["verifier"],
                JUDGE: models["judge"],
            }
            config = EvaluationConfig([Contender("model")], problems(count), 1, capacity=SLOTS)
            evaluation = Evaluation(config, scaffold, Marks(), lambda *_: cast, Path(folder), Reporter())
            cohorts = -(-count // scaffold.cohort)
            cpu = time.process_time()
            run = asyncio.create_task(evaluation.run(lambda: False))
            await asyncio.sleep(3.0)  # the ramp
            await (await session.get(f"{url}/busy")).json()
            while scaffold.begun < cohorts and not run.done():
                await asyncio.sleep(0.05)
            told = await (await session.get(f"{url}/busy")).json()
            await run
            cpu = time.process_time() - cpu
            calls = (await (await session.get(f"{url}/busy")).json())["calls"]
    process.terminate()
    share = told["used"] / (SLOTS * told["seconds"])
    print(f"{calls} calls of {count} samples; {told['seconds']:.1f} s steady, {share:.1%} of {SLOTS} slots used; "
          f"{1000 * cpu / calls:.2f} ms CPU a call")  # fmt: skip
    return {"busy_share": share, "cpu_ms_per_call": 1000 * cpu / calls}


class Instant:
    """Answers at once, with a proof of 4,000 characters."""

    name = "instant"

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        await asyncio.sleep(0)
        return ChatAnswer(f"[[proof of p: right]] {params.seed} " + "x" * 4000, "stop", 100, 1000)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def flat_memory(count: int, samples: int) -> dict[str, float]:
    """MiB that the resident set grows between a quarter of the samples and their end."""
    cast = dict.fromkeys((SOLVER, SUMMARISER, VERIFIER, JUDGE), Asked(Instant(), "instant", ChatParams(1)))
    with tempfile.TemporaryDirectory() as folder:
        config = EvaluationConfig([Contender("model")], problems(count), samples, capacity=SLOTS)
        scaffold = scaffold_of(Spec())
        evaluation = Evaluation(config, scaffold, Marks(), lambda *_: cast, Path(folder), Reporter())
        started, cpu = time.monotonic(), time.process_time()
        run = asyncio.create_task(evaluation.run(lambda: False))
        quarter = None
        while not run.done():
            if quarter is None and len(evaluation.graded) >= count * samples // 4:
                quarter = _resident_mib()
            await asyncio.sleep(0.05)
        await run
        end = _resident_mib()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20
    assert quarter is not None
    taken = 1000 * (time.process_time() - cpu) / (count * samples)
    print(f"{count} problems x {samples} samples in {time.monotonic() - started:.0f} s ({taken:.2f} ms CPU each): "
          f"{quarter:.0f} MiB at a quarter, {end:.0f} MiB at the end, {size:.0f} MiB on disk")  # fmt: skip
    return {"memory_growth_mib": end - quarter}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    quick = parser.parse_args().quick
    figures = asyncio.run(busy_share(400 if quick else 1600))
    figures |= asyncio.run(flat_memory(1000 if quick else 10_000, 8))
    bars = {"busy_share": (">=", 0.95), "cpu_ms_per_call": ("<=", 2.0), "memory_growth_mib": ("<=", 60.0)}
    return report("eval_scheduling", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
