"""A thousand runs of the four kinds on one real API server: how soon, in how many calls, at what cost.

The operator is a process of its own with the chart's flags and rights; `bench.fake_nodes` plays controllers and
kubelets. Two parts, each on a fresh server:

- paced: 10 applies a second; from a run's apply to its first pod.
- burst: all at once; until every run is Running. Then a minute of rest: processor time, memory, calls. Then one in
  which all go on. Then every pod succeeds; calls and writes over a run's life, but for that minute, by the API
  server's audit log, for each kind.

    python -m bench.operator_scale [--quick] [--parts paced burst] [--runs 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from qednano_operator.health import MAIN_ROLE

from bench.fake_nodes import Client, FakeNodes, fake_nodes
from bench.figures import report
from bench.operator_stage import (
    KIND_NAMESPACES,
    MACHINE_SHARED,
    WRITES,
    Request,
    Stage,
    percentile,
    since,
    stage,
    table,
)
from qednano.api import API_VERSION, KINDS
from tests.operator.harness import manifest, succeed

RATE = 10.0  # applies a second
STEADY_SECONDS = 60.0
BARS = {
    "first_pod_p50_s": ("<=", 1.0),
    "first_pod_p99_s": ("<=", 5.0),
    "converge_s": ("<=", 60.0),
    "calls_until_ready": ("<=", 10.0),
    "writes_of_a_life": ("<=", 20.0),
    "steady_cpu_percent": ("<=", 2.0),
    "rss_mib": ("<=", 150.0),
    "idle_calls": ("<=", 0.0),
}

Object = dict[str, Any]


class Runs:
    """The runs of a part: applied here, their phases as a watch tells them."""

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        kinds = list(KIND_NAMESPACES)
        self.manifests = [
            manifest(kinds[number % 4], f"run-{number:05d}", KIND_NAMESPACES[kinds[number % 4]])
            for number in range(count)
        ]
        self.applied: dict[str, float] = {}  # run to the moment its apply was sent
        self.first_pod: dict[str, float] = {}
        self.phases: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.ready: dict[str, float] = {}  # run to the Unix time at which it was Running
        self._changed = asyncio.Event()

    def pod_made(self, pod: Object) -> None:
        """Note the first pod of a run."""
        self.first_pod.setdefault(pod["metadata"]["labels"]["qednano.dev/run"], time.monotonic())

    async def follow(self, kind: str) -> None:
        """Keep phases up to date."""
        async for event, run in self._client.watch(f"/apis/{API_VERSION}/{KINDS[kind].plural}"):
            if event != "BOOKMARK":
                name, status = run["metadata"]["name"], run.get("status") or {}
                phase = self.phases[name] = status.get("phase", "")
                self.attempts[name] = status.get("attempt", 0)
                if phase == "Running":
                    self.ready.setdefault(name, time.time())
                self._changed.set()

    async def apply(self, run: Object) -> None:
        """Create one run."""
        path = f"/apis/{API_VERSION}/namespaces/{run['metadata']['namespace']}/{KINDS[run['kind']].plural}"
        self.applied[run["metadata"]["name"]] = time.monotonic()
        await self._client.request("POST", path, run)

    async def all_in(self, phase: str, seconds: float) -> None:
        """Wait until every run is in the phase; SystemExit when that takes longer."""
        everyone = len(self.manifests)
        await self.until(lambda: Counter(self.phases.values())[phase] == everyone, f"all {phase}", seconds)

    async def until(self, probe: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until the watches have told what makes ``probe`` true; SystemExit when that takes longer."""
        deadline = time.monotonic() + seconds
        while not probe():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise SystemExit(f"not {what} in {seconds:.0f} s: {Counter(self.phases.values())}") from None


async def paced(found: Stage, count: int) -> dict[str, float]:
    """Seconds from apply to the first pod, at a steady rate."""
    async with Client(found.server) as client, fake_nodes(found.server) as nodes, asyncio.TaskGroup() as group:
        runs = Runs(client, count)
        nodes.made = runs.pod_made
        watches = [group.create_task(runs.follow(kind)) for kind in KIND_NAMESPACES]
        began, cpu = time.monotonic(), found.cpu_seconds()
        for number, run in enumerate(runs.manifests):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            group.create_task(runs.apply(run))
        await runs.all_in("Running", 60 + count / RATE)
        spent = (found.cpu_seconds() - cpu) / since(began)
        for watch in watches:
            watch.cancel()
    waits = [runs.first_pod[name] - applied for name, applied in runs.applied.items()]
    print(f"paced: {count} runs at {RATE:g} a second, operator at {spent:.0%} of a core; {MACHINE_SHARED}")
    return {"first_pod_p50_s": percentile(waits, 0.5), "first_pod_p99_s": percentile(waits, 0.99)}


async def burst(found: Stage, count: int) -> dict[str, float]:
    """All at once, a rest, and the end."""
    async with Client(found.server) as client, fake_nodes(found.server) as nodes, asyncio.TaskGroup() as group:
        runs = Runs(client, count)
        nodes.made = runs.pod_made
        watches = [group.create_task(runs.follow(kind)) for kind in KIND_NAMESPACES]
        found.requests()  # those of the start
        began, cpu = time.monotonic(), found.cpu_seconds()
        await asyncio.gather(*(runs.apply(run) for run in runs.manifests))
        applied = since(began)
        await runs.all_in("Running", 600)
        figures = {"converge_s": since(began)}
        print(
            f"burst: {count} runs applied in {applied:.1f} s, all Running after {figures['converge_s']:.1f} s, "
            f"{len(nodes.pods)} pods, operator {found.cpu_seconds() - cpu:.1f} s of processor time; "
            f"{MACHINE_SHARED}"
        )
        await asyncio.sleep(2)  # the last ones' Events
        starting = found.requests()
        until_ready = [request for request in starting if request.at <= runs.ready.get(request.name, request.at)]
        figures["calls_until_ready"] = worst_kind("until ready", until_ready, count)
        settling = await told(found)
        figures |= await rest(found, nodes)
        figures |= await going_on(found, nodes)
        await end(nodes, runs)
        await asyncio.sleep(5)
        life = starting + settling + found.requests()
        figures["writes_of_a_life"] = worst_kind(
            "writes of a life", [request for request in life if request.verb in WRITES], count
        )
        for watch in watches:
            watch.cancel()
    return figures


def worst_kind(what: str, requests: list[Request], count: int) -> float:
    """Calls a run, of the kind that makes most."""
    each = {
        kind: len([request for request in requests if request.namespace == namespace]) / (count / 4)
        for kind, namespace in KIND_NAMESPACES.items()
    }
    print(f"calls a run {what}: " + ", ".join(f"{kind} {number:.2f}" for kind, number in each.items()))
    print(f"  {table([request for request in requests if not request.is_quiet])}")
    return max(each.values())


async def told(found: Stage) -> list[Request]:
    """Wait until what the pods told first of their progress is written; the calls until then."""
    made: list[Request] = []
    for _ in range(40):
        await asyncio.sleep(10)
        made += (new := found.requests())
        if all(request.is_quiet for request in new):
            break
    return made


async def rest(found: Stage, nodes: FakeNodes) -> dict[str, float]:
    """A minute in which nothing happens."""
    began, cpu, asked = time.monotonic(), found.cpu_seconds(), nodes.asked
    await asyncio.sleep(STEADY_SECONDS)
    spent = (found.cpu_seconds() - cpu) / since(began)
    calls = [request for request in found.requests() if not request.is_quiet]
    now, most = found.memory_mib()
    print(
        f"rest of {STEADY_SECONDS:.0f} s: {(nodes.asked - asked) / STEADY_SECONDS:.1f} questions for progress a second,"
        f" memory {now:.0f} MiB, at most {most:.0f} MiB; calls: {table(calls) or 'none'}"
    )
    return {"steady_cpu_percent": 100 * spent, "rss_mib": now, "idle_calls": float(len(calls))}


async def going_on(found: Stage, nodes: FakeNodes) -> dict[str, float]:
    """A minute in which each question finds that the run has gone on. It has no bar, and its writes count nowhere."""
    nodes.moving = True
    await asyncio.sleep(STEADY_SECONDS / 6)  # until one write follows another
    found.requests()
    began, cpu = time.monotonic(), found.cpu_seconds()
    await asyncio.sleep(STEADY_SECONDS)
    spent = 100 * (found.cpu_seconds() - cpu) / since(began)
    nodes.moving = False
    calls = [request for request in found.requests() if not request.is_quiet]
    print(f"going on for {STEADY_SECONDS:.0f} s: {spent:.1f} % of a core; calls: {table(calls)}")
    return {"going_on_cpu_percent": spent}


async def end(nodes: FakeNodes, runs: Runs) -> None:
    """Every pod of a main role succeeds, and its run with it."""
    main = {run["metadata"]["name"]: MAIN_ROLE[run["kind"]] for run in runs.manifests}
    began = time.monotonic()
    pods = [pod for pod in nodes.pods.values() if _role(pod) in (main[_run(pod)], "actor")]
    await asyncio.gather(*(nodes.end(pod, 0, succeed()) for pod in pods))
    await runs.all_in("Succeeded", 600)
    print(f"end: all Succeeded {since(began):.1f} s after their pods began to")


def _run(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["qednano.dev/run"])


def _role(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["qednano.dev/role"])


def main() -> int:
    """Run the parts asked for; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 runs")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", choices=("paced", "burst"), default=["paced", "burst"])
    asked = parser.parse_args()
    count = 100 if asked.quick else asked.runs
    figures: dict[str, float] = {}
    for part in asked.parts:
        with stage() as found:
            figures |= asyncio.run({"paced": paced, "burst": burst}[part](found, count))
    return report("operator_scale", figures, {name: bar for name, bar in BARS.items() if name in figures})


if __name__ == "__main__":
    sys.exit(main())
