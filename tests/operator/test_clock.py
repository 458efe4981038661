"""Clocks disagree: the operator's node's, its successor's, those of pods. Times are the API server's all the same."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from qednano_operator import clock as clock_module
from qednano_operator import progress as progress_module
from qednano_operator.cache import Cache, compact
from qednano_operator.clock import Clock
from qednano_operator.decision import Defaults
from qednano_operator.engine import Engine
from qednano_operator.kube import Kube
from qednano_operator.progress import ProgressPuller, Source

from qednano.progress import ProgressReport
from tests.operator.harness import free_port
from tests.operator.simulation import Simulation

HOUR = 3600.0


class Node:
    """A node's clocks: the one on the wall, which may be wrong and be set, and the monotonic one."""

    def __init__(self, wall: float) -> None:
        self.wall, self.up = wall, 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.up

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


def date(seconds: float) -> str:
    """An HTTP date."""
    return formatdate(seconds, usegmt=True)


@pytest.mark.parametrize("wrong", [-HOUR, -5.0, 0.0, 5.0, HOUR])
def test_an_answer_sets_the_clock_right_and_setting_the_nodes_changes_nothing(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = 1_800_000_000.0
    node = Node(true + wrong)
    monkeypatch.setattr(clock_module, "time", node)
    clock = Clock()
    asked = node.monotonic()
    node.passes(0.2)
    for _ in range(3):  # questions asked together: each answer corrects, and the error is one
        clock.learn(date(true + 0.1), asked)
    assert abs(clock.seconds() - (true + 0.2)) <= 1.2
    node.wall -= HOUR
    node.passes(600)
    assert abs(clock.seconds() - (true + 600.2)) <= 1.2
    assert clock.now().tzinfo is UTC


def test_what_may_be_right_is_not_corrected_however_slow_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(1_800_000_000.5)
    monkeypatch.setattr(clock_module, "time", node)
    clock = Clock()
    for wait, written in ((0.1, 0.0), (20.0, 1.0), (20.0, 19.0)):
        sent, asked = clock.seconds(), node.monotonic()
        node.passes(wait)
        clock.learn(date(sent + written), asked)
        assert clock.seconds() == pytest.approx(node.wall)
    for junk in (None, "", "soon", "Mon, 99 Jan 2026 00:00:00 GMT"):
        clock.learn(junk, node.monotonic())
        assert clock.seconds() == pytest.approx(node.wall)


async def test_a_pod_that_saves_is_not_deleted_by_force_because_the_operators_clock_is_ahead() -> None:
    simulation = Simulation.of("SFTRun")
    simulation.settle(code=None)
    (pod,) = simulation.pods("trainer")
    server = time.time() - HOUR
    pod["metadata"]["deletionTimestamp"] = datetime.fromtimestamp(server + 180, UTC).isoformat()
    simulation.run["metadata"]["resourceVersion"] = "7"
    forced: list[str] = []

    class Api:
        clock = Clock()

        async def delete(self, kind: str, _: str, name: str, uid: str, force: bool) -> None:
            forced.extend([name] * force)

        async def create(self, obj: dict[str, Any]) -> dict[str, Any]:
            return obj

        async def patch_status(self, *_: Any) -> dict[str, Any]:
            return {**simulation.run, "metadata": {**simulation.run["metadata"], "resourceVersion": "8"}}

    api = Api()
    api.clock.learn(date(server), time.monotonic())
    cache = Cache()
    for obj in (simulation.run, *simulation.objects.values()):
        cache.put(compact(obj["kind"], obj))
    await Engine(cast(Kube, api), cache, Defaults(), lambda _: {}, lambda *_: None).handle(("SFTRun", "ns", "tiny"))
    assert forced == []


@pytest.mark.parametrize("wrong", [-HOUR, HOUR])
async def test_what_a_pod_whose_clock_is_wrong_has_just_done_is_told_as_of_now(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a trainer that goes on would count as stalled, and its newest checkpoint as an old one."""

    async def progress(_: web.Request) -> web.Response:
        there = time.time() + wrong
        report = ProgressReport(step=3, total=10, updated=there, checkpointed=there - 60)
        return web.Response(body=report.model_dump_json(by_alias=True), headers={"Date": date(there)})

    app = web.Application()
    app.router.add_get("/progress", progress)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    monkeypatch.setattr(progress_module, "METRICS_PORT", port)
    key = ("SFTRun", "ns", "tiny")
    told: list[Any] = []
    puller = ProgressPuller(Cache(), Clock(), changed=told.append)
    try:
        async with aiohttp.ClientSession() as session:
            await puller._ask(session, Source(key, "trainer", "uid", "127.0.0.1"))
    finally:
        await runner.cleanup()
    found = puller.reports(key)["trainer"]
    assert told == [key] and abs(found.updated - time.time()) < 5 and abs(found.checkpointed + 60 - time.time()) < 5
