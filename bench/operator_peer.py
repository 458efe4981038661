"""Beside dask-kubernetes' kopf operator: as many clusters of as many pods on the same API server, in the same run.

A DaskCluster of a scheduler and two workers is three pods, and so is an RLRun of trainer, actor and one rollout server.
Each operator in turn is the only one that runs, in its production form; `bench.fake_nodes` makes and runs the pods of
both. Told are the 95th percentile from apply to the last pod, and writes by the API server's audit log, from the first
apply until 15 seconds after the last pod.

    python -m bench.operator_peer [--quick] [--count 60] [--rate 2]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import yaml

from bench.fake_nodes import Client, Object, fake_nodes
from bench.figures import report
from bench.operator_stage import MACHINE_SHARED, WRITES, Stage, operator, percentile, server, table
from bench.peer import DASK_KUBERNETES, dask_kubernetes
from qednano.api import API_VERSION
from tests.kube.apiserver import ApiServer
from tests.operator import chart
from tests.operator.harness import OperatorProcess, eventually, free_port, manifest

PODS = 3
NAMESPACES = ("bench-ours", "bench-dask")
BARS = {"best_ratio": (">=", 3.0), "worst_ratio": (">=", 1.0)}


def dask_cluster(name: str) -> Object:
    """The smallest cluster with a scheduler and two workers."""
    ports = [{"name": "tcp-comm", "containerPort": 8786}, {"name": "http-dashboard", "containerPort": 8787}]
    services = [
        {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
        {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
    ]
    selector = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name, "namespace": "bench-dask"},
        "spec": {
            "worker": {"replicas": PODS - 1, "spec": {"containers": [{"name": "worker", "image": "x"}]}},
            "scheduler": {
                "spec": {"containers": [{"name": "scheduler", "image": "x", "ports": ports}]},
                "service": {"type": "ClusterIP", "selector": selector, "ports": services},
            },
        },
    }


@contextlib.contextmanager
def ours(found: ApiServer, folder: Path) -> Iterator[OperatorProcess]:
    """Our operator, ready."""
    process = operator(found, folder)
    try:
        yield process.start()
    finally:
        process.end()


@contextlib.contextmanager
def dask(found: ApiServer, folder: Path) -> Iterator[None]:
    """The peer's operator as its image starts it, ready, with every right."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dask", "namespace": chart.SYSTEM}}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "dask"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "dask", "namespace": chart.SYSTEM}],
    }
    chart.install(found, [account, binding])
    kubeconfig = chart.kubeconfig_of(found, "dask", folder / "dask-kubeconfig")
    probe = f"http://127.0.0.1:{free_port()}/healthz"
    argv = ["run", "-m", "dask_kubernetes.operator.controller", f"--liveness={probe}", "--verbose", "--all-namespaces"]
    log = folder / "dask.log"
    with log.open("wb") as out:
        kopf = dask_kubernetes() / "bin" / "kopf"
        process = subprocess.Popen(
            [kopf, *argv], env={**os.environ, "KUBECONFIG": str(kubeconfig)}, stdout=out, stderr=out
        )
    try:
        eventually(lambda: _answers(probe), what=f"the peer's operator, see {log}", seconds=90)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


async def measure(found: ApiServer, collection: str, objects: list[Object], label: str, rate: float) -> list[float]:
    """Seconds from each apply until the last of its pods is made."""
    pods: dict[str, list[float]] = defaultdict(list)
    applied: dict[str, float] = {}

    def made(pod: Object) -> None:
        pods[pod["metadata"]["labels"][label]].append(time.monotonic())

    async with Client(found) as client, fake_nodes(found, label) as nodes, asyncio.TaskGroup() as group:
        nodes.made = made
        began = time.monotonic()
        for number, obj in enumerate(objects):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            applied[obj["metadata"]["name"]] = time.monotonic()
            group.create_task(client.request("POST", collection, obj))
        while sum(len(times) >= PODS for times in pods.values()) < len(objects):
            if time.monotonic() - began > 300:
                raise SystemExit(f"{label}: only {sum(map(len, pods.values()))} pods in 300 s")
            await asyncio.sleep(0.2)
        await asyncio.sleep(15)
    return [sorted(pods[name])[PODS - 1] - start for name, start in applied.items()]


def main() -> int:
    """Measure both; 1 when neither figure is three times better, or one is worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 clusters")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2.0, help="applies a second")
    asked = parser.parse_args()
    count = 20 if asked.quick else asked.count
    package = next((dask_kubernetes() / "lib").glob("python3*")) / "site-packages/dask_kubernetes"
    crds = (package / "operator/deployment/helm/dask-kubernetes-operator/crds").glob("*.yaml")
    names = [f"run-{number:04d}" for number in range(count)]
    sides = {
        "dask": (
            dask, f"/apis/kubernetes.dask.org/v1/namespaces/{NAMESPACES[1]}/daskclusters",
            [dask_cluster(name) for name in names], "dask.org/cluster-name",
        ),
        "ours": (
            ours, f"/apis/{API_VERSION}/namespaces/{NAMESPACES[0]}/rlruns",
            [manifest("RLRun", name, NAMESPACES[0]) for name in names], "qednano.dev/run",
        ),
    }  # fmt: skip
    waits, writes = {}, {}
    with server(NAMESPACES) as (found, folder):
        found.install_crds(*(yaml.safe_load(path.read_text()) for path in crds))
        for side, (running, collection, objects, label) in sides.items():
            with running(found, folder):
                log = Stage(found, OperatorProcess(folder, folder), folder)
                log.requests()
                waits[side] = percentile(asyncio.run(measure(found, collection, objects, label, asked.rate)), 0.95)
                made = [
                    request for request in log.requests() if request.verb in WRITES and request.resource != "leases"
                ]
                writes[side] = len(made) / count
            print(f"{side}: p95 {waits[side]:.2f} s from apply to {PODS} pods, {writes[side]:.1f} writes a run")
            print(f"  {table(made)}", flush=True)
    ratios = (waits["dask"] / waits["ours"], writes["dask"] / writes["ours"])
    print(f"{count} of each at {asked.rate:g} a second, dask-kubernetes {DASK_KUBERNETES}; {MACHINE_SHARED}")
    figures = {
        "p95_ratio": ratios[0], "writes_ratio": ratios[1], "best_ratio": max(ratios), "worst_ratio": min(ratios),
    }  # fmt: skip
    return report("operator_peer", figures, BARS)


if __name__ == "__main__":
    sys.exit(main())
