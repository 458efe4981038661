"""How fast a server is asked: what slows it, what speeds it up again, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from qednano.llm.pace import AdaptiveLimit, Rate


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_one_round_of_failures_slows_once_and_answers_speed_up_again():
    clock = Clock()
    limit = AdaptiveLimit(100, clock=clock)
    slots = [limit.slot() for _ in range(100)]
    for slot in slots:
        await slot.__aenter__()
    clock.now = 1.0
    for _ in range(50):
        limit.slower(sent=0.5)
    assert limit.limit == 70, "requests of one round say one thing"
    clock.now = 2.0
    limit.slower(sent=1.5)
    assert limit.limit == 49
    for slot in slots:
        await slot.__aexit__(None, None, None)
    for _ in range(49):
        limit.faster()
    assert 51 <= limit.limit <= 53, "one step more for a round of answers"
    for _ in range(3000):
        limit.faster()
    assert limit.limit == 100


async def test_it_never_falls_below_one_and_never_rises_above_the_maximum():
    clock = Clock()
    limit = AdaptiveLimit(3, clock=clock)
    for moment in range(1, 20):
        clock.now = moment
        limit.slower(sent=moment - 0.5)
    assert limit.limit == 1
    for _ in range(100):
        limit.faster()
    assert limit.limit == 3


async def test_places_survive_any_order_of_cancellations():
    changes = [0, 0]

    def changed(limit: int, in_flight: int) -> None:
        changes[0] += limit
        changes[1] += in_flight

    limit, rng, most = AdaptiveLimit(5, changed), random.Random(0), 0

    async def work() -> None:
        nonlocal most
        async with limit.slot():
            most = max(most, limit.in_flight)
            await asyncio.sleep(rng.random() / 500)

    for _ in range(30):
        tasks = [asyncio.create_task(work()) for _ in range(20)]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(rng.random() / 500)
        for task in rng.sample(tasks, 12):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limit.in_flight == 0 and changes == [5, 0]
    assert most == 5
    await asyncio.wait_for(work(), 1)
    limit.close()
    assert changes == [0, 0]


async def test_a_rate_lets_a_burst_through_and_then_so_many_a_minute(monkeypatch):
    clock, slept = Clock(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr("qednano.llm.pace.asyncio.sleep", sleep)
    rate = Rate(600, clock)
    for _ in range(400):
        await rate.take(1)
    assert clock.now == pytest.approx(30.0), "100 at once, 300 at 10 a second"
    await rate.take(1000)
    assert clock.now == pytest.approx(40.0), "more than a burst goes on credit"
    await rate.take(1)
    assert clock.now == pytest.approx(130.1), "which is paid back first"
    rate.correct(-1000)
    before = clock.now
    await rate.take(100)
    assert clock.now == before, "what was not used is given back"


async def test_no_rate_is_no_limit():
    rate = Rate(0)
    for _ in range(10_000):
        await rate.take(1e9)
