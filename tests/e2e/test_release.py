"""The chart's whole life on a real cluster: upgraded, rolled back, uninstalled, installed again; runs and data stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.test_cluster import pod
from tests.kube.apiserver import Kubectl
from tools.cluster.__main__ import Cluster
from tools.cluster.steps import wait_until
from tools.release import NAME, NAMESPACE, install, run_helm

pytestmark = pytest.mark.e2e

COUNT = """
import pathlib
root = pathlib.Path("/runs/NAMESPACE/proofdataset")
print(sorted(path.name for path in root.glob("*/artifact/*.parquet")))
"""


def dataset(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A dataset of a few generated problems: seconds of work."""
    return {
        "apiVersion": "qednano.dev/v1alpha1",
        "kind": "ProofDataset",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "sources": [{"name": "tiny", "generator": {"name": "tiny-divisibility"}}],
            "splits": [{"name": "sft", "problems": 8}, {"name": "rl", "problems": 8}],
            **spec,
        },
    }


def settled(kube: Kubectl, space: str, name: str) -> dict[str, Any]:
    """The status of the dataset once it has succeeded."""
    found: dict[str, Any] = {}

    def succeeded() -> bool:
        found.clear()
        found.update(kube.get("proofdataset", name, "-n", space).get("status", {}))
        assert found.get("phase") != "Failed", found
        return found.get("phase") == "Succeeded"

    wait_until(succeeded, what=f"{name} to succeed", seconds=180)
    return found


def operators(kube: Kubectl) -> int:
    """Operators that are ready."""
    deployment = kube.get("deployment", NAME, "-n", NAMESPACE)
    return int(deployment["status"].get("readyReplicas", 0))


@pytest.fixture
def installed(cluster: Cluster, operator: None) -> Iterator[None]:
    """The release as the other tests expect it, before and after."""
    yield
    install(cluster.kubeconfig)


@pytest.mark.timeout(900)
def test_a_release_is_upgraded_rolled_back_removed_and_installed_again_and_loses_nothing(
    cluster: Cluster, kube: Kubectl, space: str, python_image: str, installed: None
) -> None:
    kube.apply(dataset("before", space), dataset("paused", space, suspend=True))
    before = settled(kube, space, "before")
    first = json.loads(run_helm(cluster.kubeconfig, "history", NAME, "--output=json"))[-1]["revision"]

    install(
        cluster.kubeconfig, "operator.replicas=2", "priorityClasses[0].name=qed-rollout", "priorityClasses[0].value=10"
    )
    assert operators(kube) == 2
    assert kube.exists("priorityclass", "qed-rollout")
    assert kube.get("proofdataset", "before", "-n", space)["status"] == before

    run_helm(cluster.kubeconfig, "rollback", NAME, str(first), "--wait", "--timeout=180s")
    assert operators(kube) == 1
    assert not kube.exists("priorityclass", "qed-rollout")
    kube.apply(dataset("after-rollback", space))
    settled(kube, space, "after-rollback")

    run_helm(cluster.kubeconfig, "uninstall", NAME, "--wait", "--timeout=120s")
    left = kube.kubectl("get", "deployments,services,serviceaccounts", "-n", NAMESPACE, "-o", "name").split()
    left += kube.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name").split()
    assert [name for name in left if "qednano" in name] == []
    assert kube.get("proofdataset", "before", "-n", space)["status"] == before
    kube.kubectl("delete", "proofdataset", "after-rollback", "-n", space, "--timeout=30s")  # nobody has to agree

    install(cluster.kubeconfig)
    kube.kubectl("patch", "proofdataset", "paused", "-n", space, "--type=merge", '--patch={"spec":{"suspend":false}}')
    settled(kube, space, "paused")
    now = kube.get("proofdataset", "before", "-n", space)["status"]
    assert (now["artifact"], now["attempt"]) == (before["artifact"], before["attempt"])

    kube.apply(pod("reader", space, python_image, COUNT))
    wait_until(
        lambda: kube.get("pod", "reader", "-n", space)["status"]["phase"] in ("Succeeded", "Failed"),
        what="the reading pod",
        seconds=60,
    )
    assert kube.kubectl("logs", "-n", space, "reader").count("sft.parquet") == 3
