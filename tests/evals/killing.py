"""One evaluation as a process of its own, against a recording server that may kill it: for tests of resuming."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from bench.simulated import Judge, Solver, Verifier, World, is_right, problem_text
from qednano.api.scaffold import Scaffold as Spec
from qednano.data.schema import ProblemRow
from qednano.evals.run import Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds import scaffold_of
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked
from qednano.grading.interface import Grade
from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.progress import Reporter

WORLD = World(0.8, 0.3, 0.8)
PROBLEMS = [ProblemRow(id=f"p{n}", problem=problem_text(f"p{n}", rate)) for n, rate in enumerate((0.2, 0.5, 0.7))]


@dataclass(frozen=True)
class OverHttp:
    """A chat model behind the recording server."""

    url: str
    name: str

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        body = {"messages": [dict(message) for message in messages], "seed": params.seed, "pid": os.getpid()}
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/{self.name}", json=body) as answer:
            return ChatAnswer(**await answer.json())


class Marks:
    """A grader that can read the simulated models' tags."""

    name = "marks"

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        return Grade(7 if is_right(proof) else 0, "by its tag")

    async def close(self) -> None:
        pass


def evaluation_in(folder: Path, spec: dict, samples: int, url: str) -> Evaluation:
    """The evaluation of three problems by a scaffold, with all models behind `url`."""
    config = EvaluationConfig([Contender("model")], PROBLEMS, samples, capacity=6, seed=5)
    roles = {SOLVER: "solver", SUMMARISER: "solver", VERIFIER: "verifier", JUDGE: "judge"}
    cast = {role: Asked(OverHttp(url, name), name, ChatParams(1000)) for role, name in roles.items()}
    scaffold = scaffold_of(Spec.model_validate(spec))
    return Evaluation(config, scaffold, Marks(), lambda *_: cast, folder, Reporter())


def evaluate(folder: str, spec: dict, samples: int, url: str) -> None:
    """To the end, or until it is killed."""
    asyncio.run(evaluation_in(Path(folder), spec, samples, url).run(lambda: False))


class RecordingServer:
    """Answers as the simulated models do, and counts what it answered by what was asked.

    After `kill_after` answers in all it answers no more, and kills the asker with SIGKILL once all it was sent is on
    disk: what is in flight then was never paid.
    """

    def __init__(self) -> None:
        self.models = {"solver": Solver(WORLD), "verifier": Verifier(WORLD), "judge": Judge(WORLD)}
        self.answered: Counter[str] = Counter()
        self.kill_after: int | None = None
        self.calls: Path | None = None
        self.killed: set[int] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()
        self._ready.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{name}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._ready.set()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["pid"] in self.killed:  # sent before the kill, read after it: nobody is there to be answered
            raise web.HTTPServiceUnavailable
        if self.kill_after is not None and self.answered.total() >= self.kill_after:
            await self._kill(body["pid"])
        key = json.dumps([request.match_info["name"], body["messages"], body["seed"]])
        self.answered[hashlib.sha256(key.encode()).hexdigest()] += 1
        answer = await self.models[request.match_info["name"]].chat(
            body["messages"], ChatParams(1000, seed=body["seed"])
        )
        return web.json_response(asdict(answer))

    async def _kill(self, pid: int) -> None:
        assert self.calls is not None
        while self.calls.read_bytes().count(b"\n") < self.answered.total():
            await asyncio.sleep(0.002)
        self.killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(3600)  # never answered: the asker is gone

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
