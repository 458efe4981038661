"""A trainer on several nodes as one JobSet: the same ranks, addresses and attempts as with plain Jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from qednano_operator import kube
from qednano_operator.decision import Defaults
from qednano_operator.main import has_job_sets
from qednano_operator.quota import pods_of

from tests.kube.apiserver import ApiServer
from tests.kube.schemas import fits
from tests.operator import chart
from tests.operator.harness import Cluster, OperatorProcess, eventually, fail, succeed, unique
from tests.operator.jobset import JobSetController, crd
from tests.operator.simulation import LABEL, Simulation

GANG = {"maxSteps": 10, "nodes": 2}
NO_WAIT = {"maxRestarts": 3, "backoffSeconds": 0, "maxBackoffSeconds": 0}


def simulation(kind: str = "SFTRun", job_sets: bool = True, **spec: Any) -> Simulation:
    """A run with a gang of two, on a cluster with JobSet."""
    trainer = GANG if kind == "SFTRun" else {"nodes": 2}
    found = Simulation.of(kind, **{"trainer": trainer, "restart": NO_WAIT, **spec})
    found.defaults = Defaults(job_sets=job_sets)
    return found


def of_kind(found: Simulation, kind: str) -> list[str]:
    """Names of the objects of a kind."""
    return sorted(name for other, name in found.objects if other == kind)


def test_a_gang_is_one_job_set_whose_ranks_have_the_addresses_of_plain_jobs() -> None:
    together, apart = simulation(), simulation(job_sets=False)
    for found in (together, apart):
        found.operator()
        found.operator()
    assert of_kind(together, "JobSet") == ["tiny-trainer-a1"] and not of_kind(together, "Job")
    spec = together.objects["JobSet", "tiny-trainer-a1"]["spec"]
    assert spec["failurePolicy"] == {"maxRestarts": 0}, "attempts belong to the operator"
    for rank, item in enumerate(spec["replicatedJobs"]):
        alone = apart.objects["Job", f"tiny-trainer-a1-{rank}"]["spec"]["template"]
        assert item["template"]["spec"]["template"] == alone and item["replicas"] == 1
        assert item["template"]["spec"]["completionMode"] == "NonIndexed", "an indexed Job would rename its pod"
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": item["template"]["spec"]}
        fits(body, "1.37")
    pod, count = pods_of(together.objects["JobSet", "tiny-trainer-a1"])
    assert count == 2 and pod["containers"][0]["name"] == "trainer"


def test_it_is_a_job_set_as_kubeflow_publishes_them_and_so_is_what_the_tests_take_for_one() -> None:
    """Their models are generated from JobSet's own API: a field that they don't know, or want, would show."""
    found = simulation(scheduling={"nodeSelector": {"gpu": "h100"}})
    for _ in range(2):
        found.operator()
    made = {key: value for key, value in found.objects["JobSet", "tiny-trainer-a1"].items() if key != "status"}
    read = JobsetV1alpha2JobSet.from_dict(made)
    assert read is not None and read.spec is not None
    assert read.to_dict() == made
    ours, theirs = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"], JobsetV1alpha2JobSet
    known = {field.alias or name for name, field in type(read.spec).model_fields.items()}
    assert set(ours["spec"]["properties"]) <= known and set(ours) <= set(theirs.model_fields) | {"apiVersion"}


def test_a_single_pod_and_other_roles_stay_plain_jobs() -> None:
    found = simulation("RLRun")
    found.settle(code=None)
    assert of_kind(found, "JobSet") == ["tiny-trainer-a1"]
    assert of_kind(found, "Job") == ["tiny-actor-a1-0", "tiny-trainer-a1-r0-0", "tiny-trainer-a1-r1-0"]
    alone = simulation(trainer={"maxSteps": 1})
    alone.settle(code=None)
    assert not of_kind(alone, "JobSet")


def test_a_ranks_death_restarts_the_gang_as_a_new_job_set() -> None:
    found = simulation("RLRun")
    found.settle(code=None)
    found.end(next(pod for pod in found.pods("trainer") if pod["metadata"]["labels"][LABEL + "index"] == "1"), 70)
    found.settle(code=None)
    assert (found.status["phase"], found.status["attempt"]) == ("Running", 2)
    assert found.status["attempts"][-1]["exitCode"] == 70, (
        "the first failure is the cause, not the peers that were stopped"
    )
    assert "tiny-trainer-a2" in of_kind(found, "JobSet")
    living = [pod for pod in found.pods("trainer") if pod["status"]["phase"] == "Running"]
    assert {pod["metadata"]["labels"][LABEL + "attempt"] for pod in living} == {"2"} and len(living) == 2
    found.settle()
    assert found.status["phase"] == "Succeeded"


def test_suspending_takes_the_job_set_so_that_it_makes_nothing_anew() -> None:
    found = simulation()
    found.settle(code=None)
    found.run["spec"]["suspend"] = True
    found.settle(code=None)
    assert found.status["phase"] == "Suspended" and not found.pods() and not of_kind(found, "JobSet")
    found.run["spec"]["suspend"] = False
    found.settle()
    assert (found.status["phase"], found.status["attempt"]) == ("Succeeded", 2)


def test_an_attempt_stays_what_it_was_made_as_when_the_operator_is_told_otherwise() -> None:
    for before in (True, False):
        found = simulation(job_sets=before)
        found.settle(code=None)
        there = set(found.objects)
        found.defaults = Defaults(job_sets=not before)
        found.settle(code=None)
        assert set(found.objects) == there, "no second gang beside the first"
        found.end(found.pods("trainer")[0], 70)
        found.settle(code=None)
        assert ("tiny-trainer-a2" in of_kind(found, "JobSet")) is (not before), "the next attempt follows"


def test_a_job_set_that_lost_its_pods_is_followed_by_another() -> None:
    found = simulation()
    found.operator()
    found.operator()
    gone = found.objects["JobSet", "tiny-trainer-a1"]
    gone["status"]["conditions"] = [{"type": "Failed", "status": "True", "message": "deadline"}]
    found.operator()
    (attempt,) = found.status["attempts"]
    assert attempt["reason"] == "PodLost" and "JobSet tiny-trainer-a1 failed: deadline" in attempt["message"]
    found.settle()
    assert found.status["phase"] == "Succeeded"


class _Served:
    def __init__(self, *plurals: str) -> None:
        self.plurals = set(plurals)

    async def served(self, _: str) -> set[str]:
        return self.plurals


def test_job_sets_are_used_where_the_cluster_serves_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(kube, "RESOURCES", dict(kube.RESOURCES))
    without: Any = _Served()
    assert not asyncio.run(has_job_sets(without)) and "JobSet" not in kube.optional_children()
    having: Any = _Served("jobsets")
    assert asyncio.run(has_job_sets(having)) and "JobSet" in kube.optional_children()


@pytest.mark.apiserver
def test_a_gang_on_a_real_api_server_outlives_the_death_of_a_rank(
    qed_server: ApiServer, operator: OperatorProcess, own: Cluster, tmp_path: Path
) -> None:
    qed_server.install_crds(crd())
    objects = chart.render("--set", f"operator.namespaces={{{own.namespace}}},jobset.enabled=true")
    chart.install(qed_server, [o for o in objects if o["metadata"].get("namespace") == own.namespace])
    kubeconfig = chart.kubeconfig_of(qed_server, "qed-qednano", tmp_path / "kubeconfig")
    flags = (f"--namespaces={own.namespace}", "--leader-election=false", "--job-sets=true")
    process = OperatorProcess(kubeconfig, tmp_path / "operator.log", flags).start()
    name = unique("sft")
    try:
        with JobSetController(own) as sets:
            own.create("SFTRun", name, trainer={**GANG, "precision": "fp32"})
            pods = own.wait_pods(name, "trainer", count=2)
            assert [pod["spec"]["hostname"] for pod in pods] == [f"{name}-trainer-a1-{rank}" for rank in (0, 1)]
            assert all(pod["spec"]["subdomain"] == name for pod in pods)
            own.start(*pods)
            own.phase("SFTRun", name, "Running")
            own.end(pods[1], 70, fail("InternalError", "NCCL went away"))
            again = eventually(lambda: _of_attempt(own, name, 2), what="both ranks of the next attempt")
            assert f"--master-addr={name}-trainer-a2-0.{name}.{own.namespace}.svc" in str(
                again[0]["spec"]["containers"][0]["command"]
            )
            status = own.status("SFTRun", name)
            assert status["countedRestarts"] == 1 and status["attempts"][-1]["message"] == "NCCL went away"
            # The first may be there still, for its logs: if it had ended before the operator ended its other rank.
            assert [each for each in sets.names() if each != f"{name}-trainer-a1"] == [f"{name}-trainer-a2"]
            for pod in again:
                own.end(pod, 0, succeed())
            own.phase("SFTRun", name, "Succeeded")
            own.delete("SFTRun", name)
            eventually(lambda: not sets.names() and not own.children("jobs", name), what="all is collected")
    finally:
        process.end()
    assert " is forbidden" not in process.log.read_text(), "the chart's roles are too narrow"


def _of_attempt(cluster: Cluster, name: str, attempt: int) -> list[dict[str, Any]]:
    """Both pods of an attempt, once the last one's are reaped; nothing before."""
    cluster.reap(name)
    found = cluster.pods(name, "trainer", attempt)
    return found if len(found) == 2 else []
