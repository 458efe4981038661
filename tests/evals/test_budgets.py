"""Budgets in money, time and of the whole run, and questions in flight: of all roles, of each, oldest samples first."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest

from bench.simulated import Solver, Verifier, World
from qednano.api.scaffold import Scaffold as Spec
from qednano.evals.calls import Journal
from qednano.evals.lanes import Lanes
from qednano.evals.scaffolds import Stop, scaffold_of
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked, Bench, Limits, Node, Sample
from qednano.llm.chat import ChatParams
from tests.evals.killing import PROBLEMS

SELF_CHECK = {"type": "SelfCheck", "selfCheck": {"checks": 40, "passes": 20, "failures": 30}}  # never done by itself


class Clock:
    """Stands still but for answers."""

    now = 0.0


class Priced:
    """Costs 0.25 a question and takes ten seconds of the clock."""

    def __init__(self, model, clock: Clock) -> None:
        self.model, self.name, self.clock = model, model.name, clock

    async def chat(self, messages, params):
        self.clock.now += 10
        return replace(await self.model.chat(messages, params), cost=Decimal("0.25"))


def bench_of(folder, **limits) -> Bench:
    clock = Clock()
    solver, verifier = (
        Asked(Priced(model(World()), clock), model.__name__, ChatParams(1000)) for model in (Solver, Verifier)
    )
    roles = {SOLVER: solver, SUMMARISER: solver, VERIFIER: verifier, JUDGE: verifier}
    return Bench(roles, Lanes(8), Journal(folder / "calls.jsonl"), clock=lambda: clock.now, **limits)


async def solved(bench: Bench, samples: int = 1):
    solve = scaffold_of(Spec.model_validate(SELF_CHECK)).begin(samples)
    found = []
    with bench.journal:
        for index in range(samples):  # one after the other
            sample = Sample(bench, "model", PROBLEMS[0], index)
            found.append((sample, await solve(Node(sample))))
    return found


@pytest.mark.parametrize(
    ("limits", "calls", "said"),
    [
        (Limits(money=Decimal("1.50")), 6, "the sample's budget: 1.50 of 1.50 are spent"),
        (Limits(seconds=70), 7, "the sample's budget: 70 of 70 seconds are over"),
    ],
)
async def test_a_sample_stops_at_its_money_and_its_time(tmp_path, limits, calls, said):
    ((sample, solution),) = await solved(bench_of(tmp_path, limits=limits))
    assert solution.stop is Stop.BUDGET and solution.proof.text
    assert sample.spent.calls - sample.spent.failed == calls, "none is asked once the limit is reached"
    assert any(said in note for note in sample.notes)


async def test_the_runs_budget_is_shared_by_its_samples(tmp_path):
    bench = bench_of(tmp_path, total=Limits(money=Decimal("11.50")))  # less than the two samples want
    (first, _), (second, solution) = await solved(bench, samples=2)
    assert bench.journal.total.money == Decimal("11.50") == first.spent.money + second.spent.money
    assert solution.stop is Stop.BUDGET and any("the run's budget" in note for note in second.notes)


async def test_no_role_has_more_in_flight_than_its_limit_nor_all_than_theirs():
    lanes, now, most = Lanes(5, {VERIFIER: 2}), Counter(), Counter()

    async def ask(role: str) -> None:
        async with lanes.slot(role, 0):
            now[role] += 1
            most[role] = max(most[role], now[role])
            most["all"] = max(most["all"], now[SOLVER] + now[VERIFIER])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            now[role] -= 1

    await asyncio.gather(*(ask(role) for _ in range(20) for role in (VERIFIER, SOLVER)))
    assert (most[VERIFIER], most["all"], lanes.busy) == (2, 5, 0)
    assert most[SOLVER] >= 3, "what one role may not take the other does"


async def test_older_samples_go_first_and_one_that_is_cancelled_keeps_nothing():
    lanes, order, opened = Lanes(1), [], asyncio.Event()

    async def ask(age: int) -> None:
        async with lanes.slot(SOLVER, age):
            order.append(age)
            await opened.wait()

    tasks = [asyncio.create_task(ask(age)) for age in (9, 3, 7, 1)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    opened.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [9, 1, 3], "the one in flight, then by age"
    assert lanes.busy == 0
    await asyncio.wait_for(lanes.room(), 1)
