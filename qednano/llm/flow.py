"""Much work, a bounded number of tasks: items are pulled only when there is room, results come as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def run_bounded(
    work: Iterable[Item] | AsyncIterable[Item],
    worker: Callable[[Item], Awaitable[Result]],
    limit: int,
) -> AsyncIterator[Result]:
    """What `worker` makes of each item, in the order in which they finish; at most `limit` items are held at a time.

    An item is held from when it is pulled from `work` until its result is taken, so a slow consumer slows the pulling
    and memory doesn't grow with the length of `work`. The first exception, of `work` or a worker, cancels the others
    and is raised. Leaving the loop early does, too: use `contextlib.aclosing` where it may be left by `break`.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    ready: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
    running: set[asyncio.Future[Any]] = set()
    items = _async_items(work) if isinstance(work, AsyncIterable) else iter(work)
    pulling: asyncio.Future[Item] | None = None
    more = True

    def start(awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(awaitable)
        task.add_done_callback(ready.put_nowait)
        return task

    try:
        while more or running:
            while more and pulling is None and len(running) < limit:
                if isinstance(items, AsyncIterator):
                    pulling = start(anext(items))  # beside the workers: it may wait long
                    break
                try:
                    running.add(start(worker(next(items))))
                except StopIteration:
                    more = False
            if not running and pulling is None:
                break
            ended = await ready.get()
            if ended is not pulling:
                running.discard(ended)
                yield ended.result()
                continue
            pulling = None
            try:
                running.add(start(worker(ended.result())))
            except StopAsyncIteration:
                more = False
    finally:
        left = running if pulling is None else running | {pulling}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _async_items(work: AsyncIterable[Item]) -> AsyncIterator[Item]:
    async for item in work:
        yield item
