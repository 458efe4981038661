"""Every scaffold: answers, resumes after kill -9 without paying twice, replays, and goes on when branches fail."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.simulated import Judge, Solver, Verifier, World, is_right
from qednano.api.scaffold import Scaffold as Spec
from qednano.evals.calls import Journal, Status
from qednano.evals.lanes import Lanes
from qednano.evals.parts import rows_of
from qednano.evals.scaffolds import Stop, scaffold_of
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked, Bench, BranchFailed, Limits, Node, Sample
from qednano.llm.chat import ChatAnswer, ChatParams
from qednano.llm.client import RequestRefused
from tests.evals.killing import PROBLEMS, RecordingServer, evaluate, evaluation_in

SPECS = {
    "SinglePass": ({"type": "SinglePass"}, 8),
    "ReasoningCache": ({"type": "ReasoningCache"}, 2),
    "VerifyRefine": ({"type": "VerifyRefine", "verifyRefine": {"pool": 2, "verifications": 2, "rounds": 2}}, 1),
    "RSA": ({"type": "RSA", "rsa": {"population": 4, "rounds": 2, "block": 2}}, 1),
    "Nomos": ({"type": "Nomos", "nomos": {"solutions": 4, "perfect": 2, "top": 3}}, 1),
    "SelfCheck": ({"type": "SelfCheck", "selfCheck": {"checks": 10, "passes": 3, "failures": 5}}, 1),
    "StaticAgent": ({"type": "StaticAgent"}, 1),
    "PlanningAgent": ({"type": "PlanningAgent"}, 1),
    "Adaptive": ({"type": "Adaptive", "adaptive": {"worth": 48, "cohort": 2}}, 2),
}
KILLS = 20


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.evals.killing"])
    return context


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    server = RecordingServer()
    yield server
    server.close()


def outcome(folder: Path) -> list[dict]:
    """What was found, without what time says."""
    rows = rows_of(folder / "evaluation" / "part-00" / "samples.jsonl")
    return sorted(({**row, "seconds": 0} for row in rows), key=lambda row: (row["problem"], row["index"]))


@pytest.mark.parametrize("name", SPECS)
def test_killed_at_twenty_points_nothing_is_paid_twice_and_the_answer_is_the_same(name, tmp_path, server, processes):
    spec, samples = SPECS[name]
    asyncio.run(evaluation_in(tmp_path / "whole", spec, samples, server.url).run(lambda: False))
    whole, calls = outcome(tmp_path / "whole"), server.answered.total()
    assert len(whole) == 3 * samples and calls > KILLS and max(server.answered.values()) == 1

    server.answered.clear()
    server.calls = tmp_path / "killed" / "evaluation" / "part-00" / "calls.jsonl"
    for point in [*sorted(random.Random(name).sample(range(1, calls), KILLS)), None]:
        server.kill_after = point
        process = processes.Process(target=evaluate, args=(str(tmp_path / "killed"), spec, samples, server.url))
        process.start()
        process.join(60)
        assert process.exitcode == (0 if point is None else -9)
    assert outcome(tmp_path / "killed") == whole
    assert max(server.answered.values()) == 1, "no call was paid twice"
    assert server.answered.total() == calls, "and none more than without a kill"

    server.calls.parent.joinpath("samples.jsonl").unlink()
    replayed = evaluation_in(tmp_path / "killed", spec, samples, "http://127.0.0.1:9")
    asyncio.run(replayed.run(lambda: False))
    assert outcome(tmp_path / "killed") == whole, "recorded calls alone give the answer again"


class Flaky:
    """Refuses a share of what it is asked, by the question's seed."""

    name = "flaky"

    def __init__(self, model, share: float) -> None:
        self.model, self.share = model, share

    async def chat(self, messages, params: ChatParams) -> ChatAnswer:
        if random.Random(params.seed + 1).random() < self.share:
            raise RequestRefused("not this one", 400)
        return await self.model.chat(messages, params)


def bench_of(folder: Path, share: float = 0.0, limits: Limits | None = None, world: World | None = None) -> Bench:
    world = world or World()
    models = Solver(world), Verifier(world), Judge(world)
    solver, verifier, judge = (Asked(Flaky(model, share), model.name, ChatParams(1000)) for model in models)
    roles = {SOLVER: solver, VERIFIER: verifier, JUDGE: judge, SUMMARISER: solver}
    return Bench(roles, Lanes(64), Journal(folder / "calls.jsonl"), limits=limits or Limits())


async def solve_all(name: str, bench: Bench, count: int = 8):
    spec, _ = SPECS[name]
    scaffold = scaffold_of(Spec.model_validate(spec))
    problem = PROBLEMS[1]
    samples = [Sample(bench, "model", problem, index) for index in range(count)]

    async def guarded(solve, sample):
        try:
            return await solve(Node(sample))
        except BranchFailed as failure:
            return failure

    found = []
    with bench.journal:
        for start in range(0, count, scaffold.cohort):
            cohort = samples[start : start + scaffold.cohort]
            solve = scaffold.begin(len(cohort))
            found += await asyncio.gather(*(guarded(solve, sample) for sample in cohort))
    return samples, found


@pytest.mark.parametrize("name", [name for name in SPECS if name != "SinglePass"])
async def test_a_branch_that_fails_is_left_out_and_said(name, tmp_path):
    samples, found = await solve_all(name, bench_of(tmp_path, share=0.15))
    answered = [
        (sample, item) for sample, item in zip(samples, found, strict=True) if not isinstance(item, BranchFailed)
    ]
    assert len(answered) >= 5, "most samples have an answer though every seventh call fails"
    hurt = [sample for sample, _ in answered if sample.spent.failed]
    assert hurt and all(sample.notes for sample in hurt), "each says which branch failed"


@pytest.mark.parametrize("name", SPECS)
async def test_without_any_call_that_works_the_failure_is_told(name, tmp_path):
    _, found = await solve_all(name, bench_of(tmp_path, share=1.0), count=2)
    assert all(isinstance(item, BranchFailed) and item.status is Status.REFUSED for item in found)


@pytest.mark.parametrize("name", ["VerifyRefine", "SelfCheck", "RSA", "PlanningAgent", "ReasoningCache"])
async def test_a_spent_budget_ends_a_scaffold_with_what_it_has(name, tmp_path):
    samples, found = await solve_all(name, bench_of(tmp_path, limits=Limits(tokens=30_000)), count=4)
    stopped = [(sample, item) for sample, item in zip(samples, found, strict=True) if item.stop is Stop.BUDGET]
    assert stopped and all(any("budget" in note for note in sample.notes) for sample, _ in stopped)
    assert all(sample.spent.tokens < 30_000 + 6 * 25_000 for sample in samples), "over by what was in flight at most"


async def adaptive_run(folder: Path, tokens: int, worth: int = 256):
    """Sixteen problems, half of them easy, half hard, in one cohort: what was spent on either, and the answers."""
    options = {"type": "Adaptive", "adaptive": {"worth": worth, "cohort": 16}, "budget": {"tokens": tokens}}
    scaffold = scaffold_of(Spec.model_validate(options))
    bench = bench_of(folder, world=World(0.95, 0.05))
    samples = []
    for number in range(16):
        rate = (0.98, 0.15)[number % 2]
        problem = replace(PROBLEMS[0], id=f"{number}", problem=f"[[problem {number} rate {rate:.4f}]]")
        samples.append(Sample(bench, "model", problem, 0))
    solve = scaffold.begin(16)
    with bench.journal:
        found = await asyncio.gather(*(solve(Node(sample)) for sample in samples))
    easy, hard = (sum(sample.spent.tokens for sample in samples[side::2]) / 8 for side in (0, 1))
    return easy, hard, found


async def test_adaptive_stops_early_where_votes_agree_and_goes_on_where_they_do_not(tmp_path):
    easy, hard, found = await adaptive_run(tmp_path, tokens=0)
    assert hard > 1.5 * easy
    assert all(item.stop is Stop.ACCEPTED and item.belief > 0.75 and is_right(item.proof.text) for item in found[::2])
    assert sum(is_right(item.proof.text) for item in found[1::2]) >= 5, "far more than the one that a single pass gives"


async def test_adaptive_keeps_to_a_budget_that_moves_between_samples(tmp_path):
    easy, hard, _ = await adaptive_run(tmp_path, tokens=60_000)
    assert easy < 60_000 < hard, "what the easy ones leave goes to the hard ones"
    assert 0.8 * 60_000 < (easy + hard) / 2 < 1.1 * 60_000, "it is used, and kept"
