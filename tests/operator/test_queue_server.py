"""Quota and queues on a real API server: ResourceQuotas as it counts them, and Kueue's API with its rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qednano_operator.kube import KubeError
from qednano_operator.main import kueue_version

from tests.kube.apiserver import ApiServer
from tests.operator import chart
from tests.operator.harness import Cluster, OperatorProcess, eventually, succeed, unique
from tests.operator.kueue import Kueue, crds

TAINT = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}


def _quota(cluster: Cluster, **hard: str) -> None:
    path = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas"
    cluster.server.client.request("POST", path, {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    eventually(
        lambda: cluster.server.client.request("GET", f"{path}/team").get("status", {}).get("hard"),
        what="the quota is counted",
    )


@pytest.mark.apiserver
def test_a_run_that_exceeds_the_quota_is_queued_and_starts_when_it_is_lifted(
    own: Cluster, own_operator: OperatorProcess
) -> None:
    _quota(own, pods="1", **{"requests.nvidia.com/gpu": "8"})
    own_operator.start()
    name = unique("sft")
    own.create("SFTRun", name, trainer={"maxSteps": 1, "nodes": 2, "precision": "fp32", "resources": {"gpus": 8}})
    status = own.phase("SFTRun", name, "Queued")
    assert "ResourceQuota team has 1 of 1 pods left and the run needs 2: 1 short" in status["message"]
    assert "has 8 of 8 requests.nvidia.com/gpu left and the run needs 16: 8 short" in status["message"]
    assert not own.children("jobs", name)
    shown = own.server.kubectl("-n", own.namespace, "get", "sft", name, "-o", "wide")
    assert "Queued" in shown and "ResourceQuota team has 1 of 1 pods left" in shown
    assert "Queued" in [reason for reason, _ in own.events(name)]
    own.server.kubectl("-n", own.namespace, "delete", "resourcequota", "team")
    own.start(*own.wait_pods(name, "trainer", count=2))
    own.phase("SFTRun", name, "Running")


@pytest.mark.apiserver
def test_two_runs_share_a_quota_one_after_the_other(own: Cluster, own_operator: OperatorProcess) -> None:
    _quota(own, pods="1")
    own_operator.start()
    first, second = unique("sft"), unique("sft")
    own.create("SFTRun", first)
    (pod,) = own.wait_pods(first, "trainer")
    own.start(pod)
    own.phase("SFTRun", first, "Running")
    own.create("SFTRun", second)
    own.phase("SFTRun", second, "Queued")
    own.end(pod, 0, succeed())
    (later,) = own.wait_pods(second, "trainer")
    own.end(later, 0, succeed())
    own.phase("SFTRun", second, "Succeeded")


@pytest.fixture(scope="session")
def kueue_server(qed_server: ApiServer) -> ApiServer:
    """The API server with Kueue's API."""
    qed_server.install_crds(*crds())
    return qed_server


@pytest.fixture
def kueue(
    kueue_server: ApiServer, operator: OperatorProcess, own: Cluster, tmp_path: Path
) -> Iterator[tuple[Kueue, OperatorProcess]]:
    """A namespace with Kueue, and an operator that has what the chart with kueue.enabled gives it."""
    objects = chart.render("--set", f"operator.namespaces={{{own.namespace}}},kueue.enabled=true,rbac.aggregate=false")
    wanted = [
        item
        for item in chart.only(objects, "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
        if item["metadata"].get("namespace") in (None, own.namespace)
    ]
    chart.install(kueue_server, wanted)
    kubeconfig = chart.kubeconfig_of(kueue_server, "qed-qednano", tmp_path / "kubeconfig")
    flags = (f"--namespaces={own.namespace}", "--leader-election=false", "--kueue=true")
    process = OperatorProcess(kubeconfig, tmp_path / "operator.log", flags).start()
    yield Kueue(own), process
    process.end()
    assert " is forbidden" not in process.log.read_text(), "the chart's roles are too narrow"


@pytest.mark.apiserver
def test_a_run_lives_through_admission_preemption_and_its_end(kueue: tuple[Kueue, OperatorProcess]) -> None:
    queue, operator = kueue
    cluster, name = queue.cluster, unique("rl")
    flavor = unique("spot")
    queue.flavor(flavor, {"pool": "spot"}, [TAINT])
    cluster.create("RLRun", name, rollout={"replicas": 2}, scheduling={"queueName": "team"})
    workload = queue.of(name)
    assert [(item["name"], item["count"]) for item in workload["spec"]["podSets"]] == [
        ("rollout", 2),
        ("trainer", 1),
        ("actor", 1),
    ]
    queue.hold(name, "couldn't assign flavors to pod set trainer: insufficient unused quota for cpu")
    eventually(
        lambda: "insufficient unused quota for cpu" in cluster.status("RLRun", name).get("message", ""),
        what="the run says why it waits",
    )
    assert cluster.status("RLRun", name)["phase"] == "Queued" and not cluster.children("jobs", name)

    queue.admit(name, flavor)
    for role, count in (("rollout", 2), ("trainer", 1), ("actor", 1)):
        pods = cluster.wait_pods(name, role, count)
        assert all(pod["spec"]["nodeSelector"] == {"pool": "spot"} for pod in pods)
        assert all(TAINT in pod["spec"]["tolerations"] for pod in pods)
        cluster.start(*pods)
    cluster.phase("RLRun", name, "Running")
    eventually(lambda: queue.is_true(name, "PodsReady"), what="Kueue is told that the pods are ready")

    queue.preempt(name)
    cluster.phase("RLRun", name, "Queued")
    operator.kill()  # anywhere in the handshake
    operator.start()

    cluster.reaped(
        name,
        lambda: not cluster.pods(name) and not queue.is_true(name, "QuotaReserved"),
        what="pods gone, quota given back",
    )
    assert queue.is_true(name, "Requeued") and "admission" not in queue.of(name)["status"]

    queue.admit(name, flavor)
    (trainer,) = cluster.wait_pods(name, "trainer", attempt=2)
    cluster.start(trainer, *cluster.wait_pods(name, "rollout", 2), *cluster.wait_pods(name, "actor"))
    status = cluster.phase("RLRun", name, "Running")
    assert status.get("countedRestarts", 0) == 0 and status["attempts"][-1]["reason"] == "Preempted"
    cluster.end(trainer, 0, succeed())
    cluster.reaped(name, lambda: queue.is_true(name, "Finished"), what="the Workload is finished")
    cluster.phase("RLRun", name, "Succeeded")
    assert [reason for reason, _ in cluster.events(name)].count("Admitted") == 2


@pytest.mark.apiserver
def test_suspending_a_queued_or_running_run_frees_its_place(kueue: tuple[Kueue, OperatorProcess]) -> None:
    queue, _ = kueue
    cluster, name = queue.cluster, unique("sft")
    flavor = unique("cpu")
    queue.flavor(flavor, {})
    cluster.create("SFTRun", name, scheduling={"queueName": "team"})
    first = queue.of(name)
    cluster.patch("SFTRun", name, {"suspend": True})
    eventually(lambda: not queue.workloads(), what="the Workload is gone")
    cluster.patch("SFTRun", name, {"suspend": False})
    assert queue.of(name)["metadata"]["uid"] != first["metadata"]["uid"]
    queue.admit(name, flavor)
    cluster.start(*cluster.wait_pods(name, "trainer"))
    cluster.phase("SFTRun", name, "Running")
    cluster.patch("SFTRun", name, {"suspend": True})
    cluster.reaped(name, lambda: not queue.workloads(), what="pods and Workload are gone")
    cluster.phase("SFTRun", name, "Suspended")
    cluster.patch("SFTRun", name, {"suspend": False})
    cluster.phase("SFTRun", name, "Queued")
    queue.admit(name, flavor)
    cluster.wait_pods(name, "trainer", attempt=2)


class _Served:
    """A cluster that serves Workloads in some versions."""

    def __init__(self, *versions: str) -> None:
        self.versions = versions

    async def served(self, api_version: str) -> set[str]:
        if not self.versions:
            raise KubeError("no answer")
        return {"workloads"} if api_version.removeprefix("kueue.x-k8s.io/") in self.versions else set()


@pytest.mark.parametrize(
    ("served", "spoken"), [(("v1beta1",), "v1beta1"), (("v1beta1", "v1beta2"), "v1beta2"), (("v1alpha1",), "")]
)
def test_the_newest_version_that_both_know_is_spoken(served: tuple[str, ...], spoken: str) -> None:
    cluster: Any = _Served(*served)
    assert asyncio.run(kueue_version(cluster)) == spoken
