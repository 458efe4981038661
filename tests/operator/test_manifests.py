"""Objects of runs: valid on old and new clusters, locked down, and the contract with the jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from qednano_operator.decision import Defaults

from qednano.job import RunConfig, context_from_env
from tests.kube.apiserver import ApiServer
from tests.kube.schemas import fits
from tests.operator.chart import install
from tests.operator.simulation import Simulation

KINDS = ("ProofDataset", "SFTRun", "RLRun", "EvalRun")
FULL: dict[str, Any] = {
    "scheduling": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "research",
    },
    "storage": {"claimName": "shared"},
}
GANG = {"maxSteps": 1, "nodes": 2, "processes": 8, "resources": {"cpu": "16", "memory": "900Gi", "gpus": 8}}


def objects(kind: str, **spec: Any) -> list[dict[str, Any]]:
    """Everything that the first pass after the start makes."""
    simulation = Simulation.of(kind, **spec)
    simulation.operator()
    return list(simulation.decide().apply)


def pod_of(found: list[dict[str, Any]], role: str, index: int = 0) -> dict[str, Any]:
    """The pod spec of a role."""
    mine = [obj for obj in found if obj["metadata"]["labels"].get("qednano.dev/role") == role]
    return dict(mine[index]["spec"]["template"]["spec"])


def env_of(pod: dict[str, Any]) -> dict[str, str]:
    """Its environment."""
    return {item["name"]: item.get("value", "") for item in pod["containers"][0]["env"]}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("kind", KINDS)
def test_objects_fit_the_schemas(kind: str, version: str) -> None:
    for obj in objects(kind, **FULL):
        fits(obj, version)


@pytest.mark.apiserver
def test_objects_are_taken_by_an_old_api_server(qed_server: ApiServer) -> None:
    found = [obj for kind in KINDS for obj in objects(kind, **{**FULL, "scheduling": {}})]
    for number, obj in enumerate(found):
        obj["metadata"] |= {"namespace": "default", "name": f"{obj['metadata']['name']}-{number}"}
        del obj["metadata"]["ownerReferences"]
    said = install(qed_server, found, "--dry-run=server").splitlines()
    assert len(said) == len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_pods_are_locked_down(kind: str) -> None:
    pods = [obj["spec"]["template"]["spec"] for obj in objects(kind) if obj["kind"] in ("Job", "StatefulSet")]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/qed", "/tmp", "/dev/shm"}


def test_a_gang_meets_at_its_first_pod() -> None:
    found = objects("SFTRun", trainer=GANG)
    pods = [pod_of(found, "trainer", index) for index in (0, 1)]
    for rank, pod in enumerate(pods):
        command = pod["containers"][0]["command"]
        assert command[:3] == ["python", "-m", "torch.distributed.run"]
        assert f"--node-rank={rank}" in command
        assert "--nnodes=2" in command and "--nproc-per-node=8" in command
        assert "--master-addr=tiny-trainer-a1-0.tiny.ns.svc" in command
        assert command[-2:] == ["-m", "qednano_jobs.sft"]
        assert pod["hostname"] == f"tiny-trainer-a1-{rank}" and pod["subdomain"] == "tiny"
        assert pod["containers"][0]["resources"] == {
            "requests": {"cpu": "16", "memory": "900Gi", "nvidia.com/gpu": "8"},
            "limits": {"memory": "900Gi", "nvidia.com/gpu": "8"},
        }
    (service,) = [obj for obj in found if obj["kind"] == "Service"]
    assert service["metadata"]["name"] == "tiny" and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_ranks_of_a_gang_have_the_pods_time_to_save() -> None:
    pod = pod_of(objects("SFTRun", trainer=GANG), "trainer")
    launcher_waits = int(env_of(pod)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 150 <= launcher_waits < pod["terminationGracePeriodSeconds"]


def test_one_process_needs_no_launcher() -> None:
    assert pod_of(objects("SFTRun"), "trainer")["containers"][0]["command"] == ["python", "-m", "qednano_jobs.sft"]


def test_a_server_has_time_to_load_and_knows_its_number() -> None:
    pod = pod_of(objects("RLRun"), "rollout")
    (container,) = pod["containers"]
    probe = container["startupProbe"]
    assert probe["httpGet"] == {"path": "/health", "port": 8000, "scheme": "HTTP"}
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600
    assert container["command"][-1] == "export QED_INDEX=${POD_NAME##*-}; exec python -m qednano_jobs.serve"
    assert env_of(pod)["QED_HOST"] == "$(POD_NAME).tiny.ns.svc"


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_is_what_jobs_read(kind: str, tmp_path: Any) -> None:
    found = objects(kind)
    (config,) = [obj for obj in found if obj["kind"] == "ConfigMap"]
    path = tmp_path / "config.json"
    path.write_text(config["data"]["config.json"])
    assert RunConfig.model_validate(json.loads(path.read_text())).kind == kind
    (job, *_) = [obj for obj in found if obj["kind"] == "Job"]
    environment = env_of(job["spec"]["template"]["spec"])
    own = {"QED_CONFIG": str(path), "QED_RUN_DIR": str(tmp_path / "run"), "QED_SCRATCH": str(tmp_path / "scratch")}
    context = context_from_env({**environment, **own})
    assert context.spec.restart.max_restarts == 2
    assert (context.attempt, context.index) == (1, 0)
    assert context.role == job["metadata"]["labels"]["qednano.dev/role"]
    assert environment["QED_RUN_DIR"] == f"/qed/ns/{kind.lower()}/tiny-01234567"


@pytest.mark.parametrize("kind", KINDS)
def test_every_pod_may_read_a_private_hub_and_no_manifest_has_the_token(kind: str) -> None:
    found = objects(kind, hubToken={"name": "hub", "key": "token"})
    pods = [obj["spec"]["template"]["spec"] for obj in found if "template" in obj.get("spec", {})]
    assert pods
    for pod in pods:
        tokens = [item for item in pod["containers"][0]["env"] if item["name"] == "HF_TOKEN"]
        assert tokens == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
        assert "QED_SECRET_HUB_TOKEN" not in env_of(pod)


def test_a_runs_own_images_go_before_the_operators() -> None:
    pod = pod_of(objects("RLRun", images={"server": "mine:1"}), "rollout")
    assert pod["containers"][0]["image"] == "mine:1"
    assert pod_of(objects("RLRun"), "trainer")["containers"][0]["image"] == Defaults().images["trainer"]


def test_the_longest_name_still_fits() -> None:
    simulation = Simulation.of("SFTRun", trainer={"maxSteps": 1, "nodes": 64})
    simulation.run["metadata"]["name"] = "n" * 40
    simulation.operator()
    simulation.run["status"]["attempt"] = 900
    simulation.run["status"]["roles"][0]["attempt"] = 900
    simulation.asked.add("attempt 900")
    names = [obj["metadata"]["name"] for obj in simulation.decide().apply]
    assert max(map(len, names)) <= 63
