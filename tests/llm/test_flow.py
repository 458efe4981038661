"""Bounded work: nothing lost, nothing more than the limit held, errors and cancellation leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from qednano.llm.flow import run_bounded


class Gauge:
    """Counts what is held: pulled and its result not yet taken."""

    def __init__(self, length: int) -> None:
        self.length, self.pulled, self.taken, self.most = length, 0, 0, 0

    def __iter__(self):
        for item in range(self.length):
            self.pulled += 1
            self.most = max(self.most, self.pulled - self.taken)
            yield item

    async def __aiter__(self):
        for item in iter(self):
            await asyncio.sleep(0)
            yield item


class AsyncOnly:
    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    def __aiter__(self):
        return aiter(self._gauge)


class SyncOnly:
    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    def __iter__(self):
        return iter(self._gauge)


@pytest.mark.parametrize("form", [SyncOnly, AsyncOnly])
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_every_item_once_and_never_more_than_the_limit_held(form, limit):
    gauge, results = Gauge(300), []

    async def work(item: int) -> int:
        await asyncio.sleep(0.001 * (item % 3))
        return item

    async for result in run_bounded(form(gauge), work, limit):
        gauge.taken += 1
        results.append(result)
    assert sorted(results) == list(range(300))
    assert gauge.most <= min(limit, 300)


async def test_a_slow_consumer_slows_the_pulling():
    gauge = Gauge(10_000)

    async def work(item: int) -> int:
        return item

    async with contextlib.aclosing(run_bounded(SyncOnly(gauge), work, 8)) as results:
        async for _ in results:
            gauge.taken += 1
            if gauge.taken == 20:
                break
    assert gauge.pulled <= 28


async def test_results_don_t_wait_for_a_source_that_waits():
    never = asyncio.Event()

    async def source():
        yield 1
        await never.wait()

    async def work(item: int) -> int:
        return item

    async with contextlib.aclosing(run_bounded(source(), work, 4)) as results:
        assert await asyncio.wait_for(anext(results), 5) == 1


@pytest.mark.parametrize("where", ["worker", "source"])
async def test_the_first_error_cancels_the_rest(where):
    cancelled = []

    def source():
        yield from range(5)
        if where == "source":
            raise KeyError("source")
        yield from range(5, 100)

    async def work(item: int) -> int:
        if item == 5:
            raise KeyError("worker")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    before = asyncio.all_tasks()
    with pytest.raises(KeyError, match=where):
        async for _ in run_bounded(source(), work, 10):
            pass
    assert asyncio.all_tasks() == before
    if where == "worker":
        assert set(cancelled) >= set(range(5))


async def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit is 0"):
        async for _ in run_bounded([1], asyncio.sleep, 0):
            pass
