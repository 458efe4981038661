"""The evaluation against stand-in servers over real HTTP: loads, resumes, survives a restart of its server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, DataError, Stopped
from qednano.evals.benchmark import load
from qednano.evals.calls import Status, from_json
from qednano.evals.run import Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds.single_pass import SinglePass
from qednano.evals.tree import ROLES, Asked
from qednano.grading.interface import Grade
from qednano.llm.chat import ChatParams
from qednano.llm.served import ServedModel
from qednano.progress import Reporter
from tests.rl.servers import StandIn

PROBLEMS = [ProblemRow(id=f"p{number}", problem=f"problem {number}", difficulty=number % 2) for number in range(6)]
SCORES = {"/models/weak": ["zero"], "/models/strong": ["all", "some"]}


class ModelServer(StandIn):
    """A stand-in whose answers depend on the model it was told to load; `/models/odd` doesn't fit it.

    Proofs are chosen by the request's seed: equal requests have equal answers.
    """

    async def complete(self, request: web.Request) -> web.Response:
        proofs = SCORES[self.model]
        self.proofs = [proofs[(await request.json())["seed"] % len(proofs)]]
        return await super().complete(request)

    async def load(self, request: web.Request) -> web.Response:
        uri = (await request.json())["uri"]
        if uri == "/models/odd":
            return web.json_response({"error": "odd has another architecture"}, status=409)
        self.loads.append(uri)
        self.set_model(uri)
        self.announce()
        return web.json_response({"model": uri})

    def set_model(self, uri: str) -> None:
        self.model, self.proofs = uri, SCORES[uri]

    async def __aenter__(self) -> ModelServer:
        self.loads: list[str] = []
        self.set_model("/models/weak")
        await super().__aenter__()
        return self


class ByName:
    name = "by-name"

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        return Grade({"zero": 0, "some": 3, "all": 7}[proof], proof)

    async def close(self) -> None:
        pass


def evaluation_in(folder: Path, models=("strong", "weak"), samples: int = 2) -> Evaluation:
    contenders = [Contender(name, f"/models/{name}") for name in models]
    config = EvaluationConfig(contenders, PROBLEMS, samples, capacity=4)

    def cast(contender, served):
        model = ServedModel(served, contender.name, 64)
        return dict.fromkeys(ROLES, Asked(model, contender.uri, ChatParams(20)))

    return Evaluation(config, SinglePass(), ByName(), cast, folder, Reporter())


def scores_of(evaluation: Evaluation, model: str) -> set[float]:
    return {score for (name, *_), score in evaluation.graded.items() if name == model}


def never() -> bool:
    return False


async def test_each_model_answers_each_problem_with_its_own_weights(tmp_path):
    async with ModelServer(tmp_path, "server-0") as server:
        evaluation = evaluation_in(tmp_path)
        await asyncio.wait_for(evaluation.run(never), 20)
    assert server.loads == ["/models/strong", "/models/weak"]
    assert len(evaluation.graded) == 2 * 6 * 2
    by_model = {name: scores_of(evaluation, name) for name in SCORES_OF}
    assert by_model == SCORES_OF
    report = evaluation._reporter.report()
    assert report.step == report.total == 24
    strong = [score / 7 for (model, *_), score in evaluation.graded.items() if model == "strong"]
    assert report.metrics["score"] == pytest.approx(sum(strong) / 12) and report.metrics["score:weak"] == 0.0
    assert report.metrics["tokens/out"] > 0 and report.metrics["tokens/in"] > 0


SCORES_OF = {"strong": {7, 3}, "weak": {0}}


async def test_a_stopped_evaluation_goes_on_with_what_is_missing(tmp_path):
    async with ModelServer(tmp_path, "server-0") as server:
        first = evaluation_in(tmp_path)
        with pytest.raises(Stopped):
            await asyncio.wait_for(first.run(lambda: len(first.graded) >= 6), 20)
        with first.part.samples.open("a") as file:
            file.write('{"model": "strong", "probl')  # what a kill leaves
        second = evaluation_in(tmp_path)
        assert set(second.graded) == set(first.graded) and len(second.graded) >= 6
        await asyncio.wait_for(second.run(never), 20)
    assert len(second.graded) == 24
    assert len(server.requests) <= 24 + 4, "only what was in flight when it stopped is asked again"
    rows = [json.loads(line) for line in first.part.samples.read_text().splitlines()]
    assert len({(row["model"], row["problem"], row["index"]) for row in rows}) == len(rows) == 24
    calls = [from_json(json.loads(line)) for line in first.part.calls.read_text().splitlines()]
    assert len({call.key for call in calls if call.status is Status.ANSWERED}) == len(calls) == 24


async def test_a_finished_evaluation_needs_no_server(tmp_path):
    async with ModelServer(tmp_path, "server-0"):
        await asyncio.wait_for(evaluation_in(tmp_path).run(never), 20)
    await asyncio.wait_for(evaluation_in(tmp_path).run(never), 5)


async def test_a_server_that_restarts_with_its_first_model_never_answers_for_another(tmp_path):
    async with ModelServer(tmp_path, "server-0") as server:
        evaluation = evaluation_in(tmp_path, models=("strong",))
        server.gate.clear()
        task = asyncio.create_task(evaluation.run(never))
        async with asyncio.timeout(10):
            while not server.requests:
                await asyncio.sleep(0.01)
        server.set_model("/models/weak")  # its record still names the other one for a moment
        server.gate.set()
        await asyncio.wait_for(task, 20)
    assert scores_of(evaluation, "strong") == {7, 3}


async def test_a_model_that_does_not_fit_the_server_ends_the_evaluation_with_its_sentence(tmp_path):
    async with ModelServer(tmp_path, "server-0"):
        with pytest.raises(ConfigError, match="odd can't be evaluated here: odd has another architecture"):
            await asyncio.wait_for(evaluation_in(tmp_path, models=("odd",)).run(never), 20)


def test_a_benchmark_is_cut_to_its_limit_and_its_ids_are_unique(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "problem": "x"}) + "\n" for n in range(5)))
    assert [row.id for row in load(path, 2)] == ["p0", "p1"]
    assert len(load(path)) == 5
    path.write_text('{"id": "a", "problem": "x"}\n' * 2)
    with pytest.raises(DataError, match="'a' twice"):
        load(path)
    path.write_text("")
    with pytest.raises(DataError, match="no problems"):
        load(path)
