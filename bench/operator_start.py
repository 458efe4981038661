"""From the start of the operator to ready, where 5,000 runs exist: three in four have ended, the others run.

Ready means that every object is read and every run was looked at once. What exists is what `reconcile` makes of runs of
the four kinds on a cluster in memory, written to a real API server under other names; so the operator has nothing to
do, and a write of it is a mistake that is told.

    python -m bench.operator_start [--quick] [--runs 5000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from qednano_operator import manifests

from bench.fake_nodes import MERGE, NODE, Client, Object
from bench.figures import report
from bench.operator_stage import (
    KIND_NAMESPACES,
    MACHINE_SHARED,
    WRITES,
    Stage,
    operator,
    print_troubles,
    server,
    since,
    table,
)
from qednano.api import API_VERSION, KINDS
from tests.operator.simulation import Simulation

BARS = {"ready_s": ("<=", 30.0), "writes": ("<=", 0.0)}
_NAME, _UID, _NAMESPACE = "zz-placeholder", "00000000-zz-uid", "zz-namespace"
_PATHS = {
    "Job": "/apis/batch/v1", "StatefulSet": "/apis/apps/v1", "NetworkPolicy": "/apis/networking.k8s.io/v1",
}  # fmt: skip
_PLURALS = {"NetworkPolicy": "networkpolicies"}
_SEALED = ("StatefulSet", "Service")  # the operator compares the hash of these with what it would make now
SETTLING_SECONDS = 40  # the watches begin with lists of their own, which are compared with the first ones
_AT_ONCE = 64  # runs being written


def templates(ended: bool) -> dict[str, tuple[Object, list[Object]]]:
    """For each kind a settled run that has ended, or runs, and its objects, with placeholders for names."""
    found = {}
    for kind in KINDS:
        simulation = Simulation.of(kind)
        simulation.run["metadata"] |= {"name": _NAME, "namespace": _NAMESPACE, "uid": _UID}
        simulation.now = datetime.now(UTC) - timedelta(minutes=10)  # else they would have stalled long ago
        simulation.settle(code=0 if ended else None)
        objects = list(simulation.objects.values())
        owners = {obj["metadata"]["uid"]: obj for obj in objects}
        for pod in simulation.pods():
            pod["spec"] = owners[pod["metadata"]["ownerReferences"][0]["uid"]]["spec"]["template"]["spec"]
            for container in pod["status"]["containerStatuses"]:
                container |= {"name": pod["spec"]["containers"][0]["name"], "image": "x", "imageID": ""}
                container |= {"ready": not ended, "restartCount": 0}
        found[kind] = (simulation.run, objects)
    return found


def filled(template: Object, name: str, namespace: str, uid: str) -> Object:
    """A template with a run's name and uid."""
    text = json.dumps(template)
    for placeholder, value in ((_UID, uid), (_UID[:8], uid[:8]), (_NAME, name), (_NAMESPACE, namespace)):
        text = text.replace(placeholder, value)
    found: Object = json.loads(text)
    return found


async def write(client: Client, kind: str, name: str, template: tuple[Object, list[Object]]) -> None:
    """One run with its status and its objects."""
    namespace = KIND_NAMESPACES[kind]
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/{KINDS[kind].plural}"
    spec = template[0]["spec"]
    run = await client.request(
        "POST", path, {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    )
    uid = run["metadata"]["uid"]
    status = filled(template[0]["status"], name, namespace, uid)
    await client.request("PATCH", f"{path}/{name}/status", {"status": status}, MERGE)
    for obj in template[1]:
        await write_child(client, filled(obj, name, namespace, uid), run)


async def write_child(client: Client, obj: Object, run: Object) -> None:
    """One object of a run; a pod with its status."""
    kind, meta = obj["kind"], obj["metadata"]
    owner = {"apiVersion": run["apiVersion"], "kind": run["kind"], "name": run["metadata"]["name"]}
    reference = {**owner, "uid": run["metadata"]["uid"], "controller": True}
    kept = {key: meta[key] for key in ("name", "labels", "annotations") if key in meta}
    body = {key: value for key, value in obj.items() if key not in ("status", "metadata", "apiVersion")}
    whole = {key: value for key, value in obj.items() if key != "status"}
    if kind in _SEALED:
        kept["annotations"] = {manifests.LABEL + "spec-hash": manifests.spec_hash(whole)}
    if kind == "Pod":
        body["spec"] = {**body["spec"], "nodeName": NODE}
    root = _PATHS.get(kind, "/api/v1")
    version = root.removeprefix("/apis/").removeprefix("/api/")
    path = f"{root}/namespaces/{run['metadata']['namespace']}/{_PLURALS.get(kind, kind.lower() + 's')}"
    new = {"apiVersion": version, **body, "metadata": {**kept, "ownerReferences": [reference]}}
    made = await client.request("POST", path, new)
    if kind in ("Pod", "Job") and obj.get("status"):
        await client.request("PATCH", f"{path}/{made['metadata']['name']}/status", {"status": obj["status"]}, MERGE)


async def fill(found: Any, count: int) -> None:
    """All the runs."""
    ended, running = templates(True), templates(False)
    gate = asyncio.Semaphore(_AT_ONCE)
    kinds = list(KINDS)

    def plan() -> Iterator[tuple[str, str, tuple[Object, list[Object]]]]:
        for number in range(count):
            kind = kinds[number % 4]
            yield kind, f"run-{number:05d}", (running if number % 16 < 4 else ended)[kind]

    async def one(client: Client, *what: Any) -> None:
        async with gate:
            await write(client, *what)

    async with Client(found) as client, asyncio.TaskGroup() as group:
        for what in plan():
            group.create_task(one(client, *what))


def main() -> int:
    """Fill a server, start the operator; 1 when it is late or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 runs")
    parser.add_argument("--runs", type=int, default=5000)
    asked = parser.parse_args()
    count = 500 if asked.quick else asked.runs
    with server(tuple(KIND_NAMESPACES.values())) as (found, folder):
        began = time.monotonic()
        asyncio.run(fill(found, count))
        print(f"{count} runs are there after {since(began):.0f} s; {MACHINE_SHARED}", flush=True)
        process = operator(found, folder)
        stage = Stage(found, process, folder)
        began = time.monotonic()
        try:
            process.start(seconds=180)
            ready = since(began)
            spent = stage.cpu_seconds()
            time.sleep(SETTLING_SECONDS)
            now, most = stage.memory_mib()
            requests = stage.requests()
            print(
                f"ready after {spent:.1f} s of processor time, {stage.cpu_seconds():.1f} s when it had settled; "
                f"memory {now:.0f} MiB, at most {most:.0f} MiB"
            )
            print(f"  {table(requests)}")
            print_troubles(process)
        finally:
            process.end()
    writes = [request for request in requests if request.verb in WRITES and request.resource != "leases"]
    return report("operator_start", {"ready_s": ready, "writes": len(writes), "rss_mib": most}, BARS)


if __name__ == "__main__":
    sys.exit(main())
