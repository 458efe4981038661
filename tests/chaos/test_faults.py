"""Pods and nodes fail, what pods need is missing, quota is short: runs go on as soon as they can, and end as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.nursery import Nursery
from tests.kube.apiserver import ApiServer
from tests.operator.harness import Cluster, eventually, fail, succeed
from tools.cluster.api_client import Refused

pytestmark = pytest.mark.apiserver
Object = dict[str, Any]


@pytest.fixture(scope="module")
def served(qed_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A namespace with an operator of its own."""
    cluster = Cluster(qed_server, qed_server.new_namespace())
    flags = (f"--namespaces={cluster.namespace}", "--leader-election=false")
    log = tmp_path_factory.mktemp("faults") / "operator.log"
    operator = Nursery(qed_server.kubeconfig, log, *flags).start()
    yield cluster
    operator.stop()


def deleted(cluster: Cluster, pod: Object) -> None:
    """kubectl delete pod; its kubelet ends it."""
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod['metadata']['name']}"
    cluster.server.client.request("DELETE", path)


def drained(cluster: Cluster, pod: Object) -> None:
    """kubectl drain: an eviction, told by the condition DisruptionTarget before the pod goes."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
    cluster.set_pod(pod, {"conditions": [target]})
    deleted(cluster, pod)


def evicted(cluster: Cluster, pod: Object) -> None:
    """The kubelet evicts the pod, since its node is short of memory."""
    cluster.set_pod(pod, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."})


def node_lost(cluster: Cluster, pod: Object) -> None:
    """The node is gone: the pod garbage collector removes the pod by force."""
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod['metadata']['name']}"
    cluster.set_pod(pod, {"reason": "NodeLost"})
    cluster.server.client.request("DELETE", path, {"gracePeriodSeconds": 0})


def out_of_memory(cluster: Cluster, pod: Object) -> None:
    """The kernel kills the process."""
    cluster.end(pod, 137, "step 7 of 10", reason="OOMKilled")


@pytest.mark.parametrize(
    ("fault", "counted"),
    [(deleted, False), (drained, False), (evicted, False), (node_lost, False), (out_of_memory, True)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_run_that_loses_its_pod_goes_on_with_the_next_attempt_and_ends_well(
    served: Cluster, fault: Callable[[Cluster, Object], None], counted: bool
) -> None:
    name = fault.__name__.replace("_", "-")
    served.create("SFTRun", name)
    (pod,) = served.wait_pods(name, "trainer", attempt=1)
    served.start(pod)
    served.phase("SFTRun", name, "Running")
    fault(served, pod)

    (pod,) = served.reaped(name, lambda: served.pods(name, "trainer", attempt=2), what="the next attempt's pod")
    served.start(pod)
    served.phase("SFTRun", name, "Running")
    served.end(pod, 0, succeed())
    status = served.phase("SFTRun", name, "Succeeded")
    assert (status["attempt"], status.get("countedRestarts", 0)) == (2, int(counted))
    assert status["artifact"]["digest"].startswith("sha256:")
    jobs = [job["metadata"]["name"] for job in served.children("jobs", name)]
    assert f"{name}-trainer-a2-0" in jobs and len(jobs) <= 2
    if counted:
        assert "raise resources.memory of trainer" in status["attempts"][0]["message"]


def waiting(reason: str, message: str, pod: Object) -> Object:
    """What a kubelet says of a container that it can't start."""
    container = pod["spec"]["containers"][0]
    state = {"waiting": {"reason": reason, "message": message}}
    status = {"name": container["name"], "image": container["image"], "imageID": "", "ready": False, "restartCount": 0}
    return {"phase": "Pending", "containerStatuses": [{**status, "state": state}]}


def test_a_missing_image_is_corrected_and_the_run_goes_on(served: Cluster) -> None:
    name = "image"
    served.create("SFTRun", name, images={"trainer": "registry.example/trainer:1"})
    (pod,) = served.wait_pods(name, "trainer", attempt=1)
    with pytest.raises(Refused, match=r"spec\.images can't change"):
        served.patch("SFTRun", name, {"images": {"trainer": "registry.example/trainer:2"}})
    served.bind(pod)
    served.set_pod(pod, waiting("ErrImagePull", "manifest unknown", pod))
    eventually(lambda: "ImageUnavailable" in dict(served.events(name)), what="an Event that names the image")
    assert "can't pull its image registry.example/trainer:1" in served.status("SFTRun", name)["message"]
    served.patch("SFTRun", name, {"images": {"trainer": "registry.example/trainer:2"}})

    (pod,) = served.reaped(name, lambda: served.pods(name, "trainer", attempt=2), what="a pod with the other image")
    assert pod["spec"]["containers"][0]["image"] == "registry.example/trainer:2"
    served.start(pod)
    served.phase("SFTRun", name, "Running")
    with pytest.raises(Refused, match=r"spec\.images can't change"):
        served.patch("SFTRun", name, {"images": {"trainer": "registry.example/trainer:3"}})
    served.end(pod, 0, succeed())
    status = served.phase("SFTRun", name, "Succeeded")
    assert status["attempts"][0]["reason"] == "ImageCorrected" and status.get("countedRestarts", 0) == 0


def test_a_secret_that_comes_later_starts_the_pod_that_waits_for_it(served: Cluster) -> None:
    name = "secret"
    served.create("SFTRun", name, hubToken={"name": "hub", "key": "token"})
    (pod,) = served.wait_pods(name, "trainer")
    served.bind(pod)
    served.set_pod(pod, waiting("CreateContainerConfigError", 'secret "hub" not found', pod))
    eventually(lambda: 'secret "hub" not found' in served.status("SFTRun", name).get("message", ""), what="the words")
    assert "PodNotStarted" in dict(served.events(name))
    served.start(pod)  # the kubelet tries again by itself, and finds it
    assert served.phase("SFTRun", name, "Running")["attempt"] == 1


def test_a_rotated_secret_reaches_the_next_attempt_and_disturbs_none(served: Cluster) -> None:
    """Pods name the Secret and not its value, so each reads it when it starts: nothing is kept anywhere else."""
    name = "rotated"
    path = f"/api/v1/namespaces/{served.namespace}/secrets"
    secret = {"metadata": {"name": "rotating"}, "stringData": {"token": "old"}}
    served.server.client.request("POST", path, secret)
    served.create("SFTRun", name, hubToken={"name": "rotating", "key": "token"})
    (pod,) = served.wait_pods(name, "trainer", attempt=1)
    served.start(pod)
    served.phase("SFTRun", name, "Running")
    served.server.client.request("PUT", f"{path}/rotating", {**secret, "stringData": {"token": "new"}})
    served.end(pod, 69, fail("DependencyUnavailable", "the Hub refuses the token"))
    (pod,) = served.wait_pods(name, "trainer", attempt=2)
    named = [item.get("valueFrom", {}).get("secretKeyRef", {}) for item in pod["spec"]["containers"][0]["env"]]
    assert {"name": "rotating", "key": "token"} in [{key: item.get(key) for key in ("name", "key")} for item in named]
    for text in (str(pod), str(served.children("jobs", name)), str(served.children("configmaps", name))):
        assert "'old'" not in text and "'new'" not in text


def test_a_quota_that_is_lifted_lets_the_run_start_by_itself(served: Cluster, own: Cluster, tmp_path: Path) -> None:
    operator = Nursery(
        own.server.kubeconfig, tmp_path / "log", f"--namespaces={own.namespace}", "--leader-election=false"
    ).start()
    path = f"/api/v1/namespaces/{own.namespace}/resourcequotas"
    try:
        own.server.client.request("POST", path, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}})
        eventually(
            lambda: own.server.client.request("GET", f"{path}/team").get("status", {}).get("hard"), what="the quota"
        )
        own.create("SFTRun", "held")
        assert "ResourceQuota team has 0 of 0 pods left" in own.phase("SFTRun", "held", "Queued")["message"]
        own.server.client.request("DELETE", f"{path}/team")
        (pod,) = own.wait_pods("held", "trainer")
        own.start(pod)
        own.phase("SFTRun", "held", "Running")
        own.end(pod, 0, succeed())
        assert own.phase("SFTRun", "held", "Succeeded")["attempt"] == 1
    finally:
        operator.stop()
