"""Where pods go and what they are given there: per run, per role, and refused where it can't be meant."""

from __future__ import annotations

from typing import Any

import pytest

from qednano.api.scheduling import is_reserved
from tests.kube.schemas import fits
from tests.operator.harness import Cluster, unique
from tests.operator.test_manifests import KINDS, env_of, objects, pod_of
from tools.cluster.api_client import Refused

GPUS = {"resources": {"gpus": 1}}
ZONE = "topology.kubernetes.io/zone"
SPOT = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
ON_DEMAND = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
SCHEDULING: dict[str, Any] = {
    "nodeSelector": {"pool": "on-demand"},
    "tolerations": [ON_DEMAND],
    "priorityClassName": "research",
    "runtimeClassName": "nvidia",
    "topologyKey": ZONE,
    "spreadKey": "kubernetes.io/hostname",
    "sharedMemory": "16Gi",
    "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
    "extraResources": {"rdma/hca": 1},
    "placement": {
        "rollout": {"nodeSelector": {"pool": "spot"}, "tolerations": [SPOT], "priorityClassName": "spot"},
        "actor": {"extraResources": {"example.com/disk": 2}},
    },
}
TRAINER = {"nodes": 2, "processes": 1, **GPUS}


def _rl() -> list[dict[str, Any]]:
    return objects("RLRun", trainer=TRAINER, rollout={"replicas": 2, **GPUS}, scheduling=SCHEDULING)


def test_a_role_goes_where_its_placement_says_and_the_others_where_the_run_does() -> None:
    found = _rl()
    trainer, rollout, actor = (pod_of(found, role) for role in ("trainer", "rollout", "actor"))
    for pod in (trainer, actor):
        assert pod["nodeSelector"] == {"pool": "on-demand"} and pod["tolerations"] == [ON_DEMAND]
        assert pod["priorityClassName"] == "research"
    assert rollout["nodeSelector"] == {"pool": "spot"} and rollout["tolerations"] == [SPOT]
    assert rollout["priorityClassName"] == "spot"
    assert {pod["runtimeClassName"] for pod in (trainer, rollout, actor)} == {"nvidia"}


def test_devices_go_to_pods_with_gpus_and_to_whom_a_placement_gives_them() -> None:
    found = _rl()
    limits = {role: pod_of(found, role)["containers"][0]["resources"]["limits"] for role in ("trainer", "actor")}
    assert limits["trainer"]["rdma/hca"] == "1" and "example.com/disk" not in limits["trainer"]
    assert limits["actor"]["example.com/disk"] == "2" and "rdma/hca" not in limits["actor"]


def test_another_gpu_resource_takes_the_place_of_the_usual_one() -> None:
    found = objects("SFTRun", trainer={"maxSteps": 1, **GPUS}, scheduling={"gpuResource": "nvidia.com/mig-1g.10gb"})
    resources = pod_of(found, "trainer")["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/mig-1g.10gb"] == "1" and "nvidia.com/gpu" not in resources["limits"]
    assert resources["requests"]["nvidia.com/mig-1g.10gb"] == "1"


def test_a_gang_is_packed_by_attempt_and_servers_are_spread() -> None:
    found = _rl()
    affinity = pod_of(found, "trainer", 1)["affinity"]["podAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == ZONE
    template = next(obj for obj in found if obj["metadata"]["name"] == "tiny-trainer-a1-0")["spec"]["template"]
    wanted = term["labelSelector"]["matchLabels"]
    assert wanted["qednano.dev/attempt"] == "1"
    assert wanted.items() <= template["metadata"]["labels"].items(), "the first pod of a gang meets its own term"
    rollout = pod_of(found, "rollout")
    (spread,) = rollout["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert "affinity" not in rollout and "affinity" not in pod_of(found, "actor")


def test_a_preferred_topology_does_not_hold_a_gang_back() -> None:
    found = objects("SFTRun", trainer={**TRAINER, "maxSteps": 1}, scheduling={**ROLELESS, "topologyMode": "Preferred"})
    (wish,) = pod_of(found, "trainer")["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert wish["podAffinityTerm"]["topologyKey"] == ZONE


ROLELESS = {key: value for key, value in SCHEDULING.items() if key != "placement"}


def test_a_single_pod_is_not_packed() -> None:
    assert "affinity" not in pod_of(objects("SFTRun", scheduling=ROLELESS), "trainer")


def test_shared_memory_and_environment_reach_every_pod() -> None:
    found = _rl()
    for role in ("trainer", "rollout", "actor"):
        pod = pod_of(found, role)
        (memory,) = [item["emptyDir"] for item in pod["volumes"] if item["name"] == "shm"]
        assert memory == {"medium": "Memory", "sizeLimit": "16Gi"}
        assert {"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "INFO"}.items() <= env_of(pod).items()


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_placed_objects_fit_the_schemas(version: str) -> None:
    for obj in _rl():
        fits(obj, version)


@pytest.mark.parametrize("kind", KINDS)
def test_every_variable_that_the_operator_sets_is_reserved(kind: str) -> None:
    pods = [obj["spec"]["template"]["spec"] for obj in objects(kind) if obj["kind"] in ("Job", "StatefulSet")]
    assert {name for pod in pods for name in env_of(pod) if not is_reserved(name)} == set()


@pytest.mark.apiserver
@pytest.mark.parametrize(
    ("scheduling", "complaint"),
    [
        ({"env": [{"name": "RANK", "value": "0"}]}, "set by the operator or by torchrun"),
        ({"env": [{"name": "QED_RUN_DIR"}]}, "set by the operator or by torchrun"),
        ({"env": [{"name": "MASTER_ADDR"}]}, "set by the operator or by torchrun"),
        ({"env": [{"name": "NOT A NAME"}]}, "spec.scheduling.env"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "Duplicate value"),
        ({"extraResources": {"memory": 1}}, "devices such as rdma/hca"),
        ({"placement": {"trainer": {"extraResources": {"nvidia.com/gpu": 1}}}}, "devices such as rdma/hca"),
        ({"gpuResource": "amd.com/gpu", "extraResources": {"amd.com/gpu": 1}}, "extraResources names gpuResource"),
        ({"topologyMode": "Maybe"}, "topologyMode"),
    ],
)
def test_the_api_server_refuses_what_would_break_a_run(
    cluster: Cluster, scheduling: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Refused) as refused:
        cluster.create("SFTRun", unique("bad"), scheduling=scheduling)
    assert refused.value.status == 422 and complaint in str(refused.value)


@pytest.mark.apiserver
def test_pods_on_a_real_api_server_carry_their_placement(cluster: Cluster) -> None:
    name = unique("rl")
    wish = {key: value for key, value in SCHEDULING.items() if key not in ("priorityClassName", "runtimeClassName")}
    wish["placement"] = {"rollout": {"nodeSelector": {"pool": "spot"}, "tolerations": [SPOT]}}
    cluster.create("RLRun", name, trainer=TRAINER, rollout={"replicas": 1, **GPUS}, scheduling=wish)
    (rollout,) = cluster.wait_pods(name, "rollout")
    trainers = cluster.wait_pods(name, "trainer", count=2)
    assert rollout["spec"]["nodeSelector"] == {"pool": "spot"} and SPOT in rollout["spec"]["tolerations"]
    for pod in trainers:
        assert pod["spec"]["nodeSelector"] == {"pool": "on-demand"} and ON_DEMAND in pod["spec"]["tolerations"]
        assert pod["spec"]["containers"][0]["resources"]["limits"]["rdma/hca"] == "1"
        assert pod["spec"]["affinity"]["podAffinity"]


@pytest.mark.apiserver
def test_a_placement_of_a_role_that_the_run_does_not_have_is_named(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name, scheduling={"placement": {"rollout": {"nodeSelector": {"pool": "spot"}}}})
    status = cluster.phase("SFTRun", name, "Pending")
    assert "placement names role rollout, but the run's roles are trainer" in status["message"]
