"""What a run costs the API server and its pods: calls are counted, and bounded."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families
from qednano_operator import engine as engine_module
from qednano_operator import progress as progress_module
from qednano_operator.cache import Cache, compact, interned
from qednano_operator.clock import Clock
from qednano_operator.decision import Defaults
from qednano_operator.engine import Engine
from qednano_operator.kube import Kube, connect
from qednano_operator.lease import Lease
from qednano_operator.progress import ProgressPuller, Source
from qednano_operator.queue import KeyedQueue
from qednano_operator.status import is_urgent

from qednano.progress import ProgressReport
from tests.operator.harness import Cluster, OperatorProcess, eventually, unique
from tests.operator.simulation import Simulation

MOST_CALLS, MOST_WRITES, QUIET_SECONDS = 10, 20, 5.0


def _calls(operator: OperatorProcess) -> dict[tuple[str, str], float]:
    """Calls so far by verb and kind, without those that no run is charged with."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(operator.get("/metrics")):
        for sample in family.samples:
            if sample.name == "qednano_operator_api_requests_total" and sample.labels["verb"] != "list":
                found[sample.labels["verb"], sample.labels["kind"]] = sample.value
    return found


@pytest.mark.apiserver
def test_a_run_is_ready_after_ten_calls_and_takes_twenty_writes_in_its_life(
    own: Cluster, own_operator: OperatorProcess
) -> None:
    own_operator.start()
    before, name = _calls(own_operator), unique("sft")

    def spent() -> dict[tuple[str, str], float]:
        """By verb and kind, for a message that says where they went."""
        return {what: count - before.get(what, 0.0) for what, count in _calls(own_operator).items()}

    began = time.monotonic()
    own.create("SFTRun", name)
    (pod,) = own.wait_pods(name, "trainer")
    own.start(pod)
    own.phase("SFTRun", name, "Running")
    eventually(lambda: any(reason == "Started" for reason, _ in own.events(name)), what="the Event of the start")
    until_ready, slow = spent(), int((time.monotonic() - began) / QUIET_SECONDS)  # a write more for each such time
    assert sum(until_ready.values()) <= MOST_CALLS + slow, until_ready
    own.end(pod, 0)
    own.phase("SFTRun", name, "Succeeded")
    eventually(lambda: any(reason == "Succeeded" for reason, _ in own.events(name)), what="the Event of the end")
    life = {what: count for what, count in spent().items() if what[0] != "get"}
    assert sum(life.values()) <= MOST_WRITES + slow, life


def test_texts_that_many_objects_say_are_held_once() -> None:
    text = '{"kind": "Job", "metadata": {"labels": {"qednano.dev/kind": "SFTRun"}}, "status": {"list": ["a b", 1]}}'
    one, other = (interned(json.loads(text)) for _ in range(2))
    assert one == other == json.loads(text)
    (key,), (same,) = one["metadata"]["labels"], other["metadata"]["labels"]
    assert key is same and one["metadata"]["labels"][key] is other["metadata"]["labels"][key]


@pytest.mark.parametrize(
    ("patch", "urgent"),
    [
        ({"progress": {"step": 3}, "usage": {"gpuSeconds": 60}, "message": "step 3"}, False),
        ({"roles": [{"name": "trainer", "ready": 1}], "gpus": 8, "rolloutReplicas": 2}, False),
        ({"conditions": [{"type": "Scheduled", "status": "True"}, {"type": "Running", "status": "False"}]}, False),
        ({"conditions": [{"type": "Running", "status": "True"}]}, True),
        ({"phase": "Restarting"}, True),
        ({"attempt": 2, "roles": [{"name": "trainer", "attempt": 2}]}, True),
        ({"retryAfter": None}, True),
    ],
)
def test_only_what_moves_a_run_is_written_at_once(patch: dict[str, Any], urgent: bool) -> None:
    old = {"conditions": [{"type": "Running", "status": "False"}], "phase": "Starting", "attempt": 1}
    assert is_urgent(patch, old) is urgent


async def test_a_thousand_pods_are_asked_no_faster_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    puller = ProgressPuller(Cache(), Clock(), changed=lambda key: None)
    found = [Source(("SFTRun", "ns", f"r{number}"), "trainer", f"uid{number}", "127.0.0.1") for number in range(1000)]

    async def ask(_: Any, source: Source) -> None:
        asked.append(source.uid)

    def wanted() -> list[Source]:
        puller._not_before = dict.fromkeys((source.uid for source in found), 0.0)
        return found

    monkeypatch.setattr(progress_module, "_RATE", 100.0)
    monkeypatch.setattr(puller, "_wanted", wanted)
    monkeypatch.setattr(puller, "_ask", ask)
    task = asyncio.create_task(puller.run())
    await asyncio.sleep(0.5)
    task.cancel()
    assert 2 <= len(asked) <= 51 and len(set(asked)) == len(asked), "evenly, one after the other"


async def test_a_lease_is_renewed_by_one_call() -> None:
    calls: list[str] = []

    class Leases:
        async def get(self, *_: str) -> dict[str, Any]:
            calls.append("get")
            return {"metadata": {"resourceVersion": "1"}, "spec": {}}

        async def replace(self, obj: dict[str, Any]) -> dict[str, Any]:
            calls.append("update")
            return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(len(calls))}}

    lease = Lease(Leases(), "ns", "op", "me")  # type: ignore[arg-type]
    assert [await lease._try() for _ in range(3)] == [True] * 3
    assert calls == ["get", "update", "update", "update"]


async def test_a_long_queue_is_not_a_stuck_one() -> None:
    """Liveness must not end an operator that works through a thousand runs."""
    gate, taken = asyncio.Event(), asyncio.Event()

    async def handle(key: str) -> None:
        taken.set()
        if key == "hangs":
            await gate.wait()

    queue: KeyedQueue[str] = KeyedQueue(handle, workers=1)
    for key in ("first", "hangs", "last"):
        queue.add(key)
    queue._since = dict.fromkeys(queue._since, -1000.0)  # they have waited for long
    task = asyncio.create_task(queue.run())
    await asyncio.wait_for(taken.wait(), 5)
    assert queue.stuck_seconds() < 5
    queue._progress -= 1000  # and now no worker moves any more
    assert queue.stuck_seconds() > 900
    gate.set()
    await asyncio.wait_for(queue.caught_up(), 5)
    assert len(queue) == 0 and queue.stuck_seconds() == 0
    task.cancel()


async def test_caught_up_means_that_each_waiting_key_was_tried_also_if_it_failed() -> None:
    tried: list[str] = []

    async def handle(key: str) -> None:
        tried.append(key)
        if key == "bad":
            raise ValueError("no")

    queue: KeyedQueue[str] = KeyedQueue(handle, workers=2)
    for key in ("a", "bad", "c"):
        queue.add(key)
    task = asyncio.create_task(queue.run())
    await asyncio.wait_for(queue.caught_up(), 5)
    assert sorted(tried) == ["a", "bad", "c"]
    task.cancel()


async def test_a_request_starts_no_thread_and_proxies_are_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp that trusts the environment looks for a ~/.netrc in a thread before every request."""
    cluster = {"name": "c", "cluster": {"server": "https://api.example:6443"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": "secret"}}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps({"current-context": "c", "clusters": [cluster], "contexts": [context], "users": [user]})
    )
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    for bypassed, expected in (("", "http://proxy.example:3128"), ("api.example", None)):
        monkeypatch.setenv("NO_PROXY", bypassed)
        async with connect() as kube:
            assert kube._api.configuration.proxy == expected
            assert not kube._api.rest_client._create_pool_manager().trust_env


async def test_progress_that_comes_seldom_is_written_in_one_pass_and_often_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation, key = Simulation.of("SFTRun", limits={"stallSeconds": 0}), ("SFTRun", "ns", "tiny")
    simulation.settle(code=None)
    cache, clock, steps, delayed = Cache(), Clock(), list[int](), list[float]()
    at = time.monotonic()
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: at))

    async def patch_status(*asked: Any) -> dict[str, Any]:
        steps.append(asked[3]["progress"]["step"])
        simulation.run["metadata"]["resourceVersion"] = str(len(steps))
        simulation.run["status"] |= asked[3]
        return simulation.run

    simulation.run["metadata"]["resourceVersion"] = "0"
    for obj in (simulation.run, *simulation.objects.values()):
        cache.put(compact(obj["kind"], obj))
    report = ProgressReport(step=1, total=10, updated=1.0)
    api = SimpleNamespace(clock=clock, patch_status=patch_status)
    engine = Engine(
        cast(Kube, api), cache, Defaults(), lambda _: {"trainer": report}, lambda _, wait: delayed.append(wait)
    )
    for seconds, step, written in (
        (0, 1, [1]),  # that the run goes on is told at once
        (2, 2, [1]),
        (1, 3, [1]),
        (2, 3, [1, 3]),
        (100, 4, [1, 3, 4]),
    ):
        at += seconds
        report = report.model_copy(update={"step": step, "updated": at})
        await engine.handle(key)
        assert steps == written, f"after {seconds} s more"
    assert min(delayed) >= 0


def test_no_run_waits_until_the_model_of_its_kind_is_built() -> None:
    text = (
        "from qednano.api import KINDS, RunStatus; from qednano_operator import subject\n"
        "def built(): return [m.__pydantic_complete__ for m in (RunStatus, *(k.spec_type() for k in KINDS.values()))]\n"
        "print(all(built())); subject.prepare(); print(all(built()))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True"], done.stderr
