"""spec.artifacts.retention: Delete takes the folder with the run, and no deletion hangs while an operator lives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from qednano_jobs.cleanup import delete
from qednano_operator.cache import Cache, compact
from qednano_operator.clock import Clock
from qednano_operator.decision import Defaults, Object
from qednano_operator.engine import Engine
from qednano_operator.kube import Kube
from qednano_operator.retention import FINALIZER, PATIENCE

from tests.operator.harness import Cluster, OperatorProcess, eventually, succeed, unique
from tests.operator.simulation import Simulation
from tests.operator.test_security import violations
from tools.cluster.api_client import Refused

DELETE = {"retention": "Delete"}


def deleted(kind: str = "SFTRun") -> Simulation:
    """A running run that asks for its folder to be deleted, just deleted itself."""
    simulation = Simulation.of(kind, artifacts=DELETE)
    simulation.settle(code=None)
    assert simulation.run["metadata"]["finalizers"] == [FINALIZER]
    simulation.run["metadata"]["deletionTimestamp"] = simulation.now.isoformat()
    return simulation


def passes(simulation: Simulation, count: int = 6) -> None:
    """The operator and the controllers, a few times."""
    for _ in range(count):
        simulation.operator()
        simulation.reap()
        simulation.controllers()


def test_the_finalizer_comes_before_anything_else_and_only_when_it_is_asked_for() -> None:
    simulation = Simulation.of("SFTRun", artifacts=DELETE)
    decision = simulation.decide()
    assert decision.finalizers == (FINALIZER,) and not decision.apply
    simulation.settle(code=None)
    simulation.run["spec"]["artifacts"] = {"retention": "Keep"}
    simulation.operator()
    assert simulation.run["metadata"]["finalizers"] == []
    assert Simulation.of("SFTRun").decide().finalizers is None


def test_other_peoples_finalizers_stay() -> None:
    simulation = Simulation.of("SFTRun", artifacts=DELETE)
    simulation.run["metadata"]["finalizers"] = ["foregroundDeletion"]
    simulation.settle(code=None)
    assert simulation.run["metadata"]["finalizers"] == ["foregroundDeletion", FINALIZER]


@pytest.mark.parametrize("kind", ["ProofDataset", "SFTRun", "RLRun", "EvalRun"])
def test_pods_end_before_the_folder_goes_and_the_run_after_it(kind: str) -> None:
    simulation = deleted(kind)
    simulation.operator()
    assert ("Job", "tiny-cleanup") not in simulation.objects
    passes(simulation)
    job = simulation.objects["Job", "tiny-cleanup"]
    assert [pod["metadata"]["labels"]["qednano.dev/role"] for pod in simulation.pods()] == ["cleanup"]
    assert FINALIZER in simulation.run["metadata"]["finalizers"]
    job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    simulation.operator()
    assert simulation.run["metadata"]["finalizers"] == [] and simulation.events[-1] == "ArtifactsDeleted"
    assert ("Job", "tiny-cleanup") not in simulation.objects


def test_the_job_is_restricted_outlives_the_run_and_knows_only_the_folder() -> None:
    simulation = deleted()
    passes(simulation)
    job = simulation.objects["Job", "tiny-cleanup"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert violations(pod) == [] and "ownerReferences" not in job["metadata"]
    folder = simulation.status["runDir"]
    assert [item for item in container["env"] if item["name"] != "PYTHONUNBUFFERED"] == [
        {"name": "QED_RUN_DIR", "value": folder}
    ]
    assert container["command"] == ["python", "-m", "qednano_jobs.cleanup"]
    assert [volume["name"] for volume in pod["volumes"]] == ["storage", "tmp"]


@pytest.mark.parametrize("how", ["failed", "late", "stuck"])
def test_a_cleanup_that_does_not_work_gives_up_and_says_so(how: str) -> None:
    simulation = deleted()
    if how != "stuck":
        passes(simulation)
    if how == "failed":
        simulation.objects["Job", "tiny-cleanup"]["status"]["conditions"] = [{"type": "Failed", "status": "True"}]
    else:
        decision = simulation.decide()
        assert decision.wake_after is not None and decision.wake_after <= PATIENCE
        simulation.now += timedelta(seconds=PATIENCE + 1)
    simulation.operator()
    assert simulation.run["metadata"]["finalizers"] == [] and simulation.events[-1] == "ArtifactsKept"


def test_a_run_that_never_started_or_keeps_its_folder_goes_at_once() -> None:
    simulation = Simulation.of("SFTRun", artifacts=DELETE, suspend=True)
    simulation.operator()
    simulation.run["metadata"]["deletionTimestamp"] = simulation.now.isoformat()
    simulation.operator()
    assert simulation.run["metadata"]["finalizers"] == []
    simulation = deleted()
    simulation.run["spec"]["artifacts"] = {"retention": "Keep"}
    simulation.operator()
    assert simulation.run["metadata"]["finalizers"] == [] and ("Job", "tiny-cleanup") not in simulation.objects


def test_the_job_deletes_a_runs_folder_and_nothing_else(tmp_path: Path) -> None:
    volume = tmp_path / "qed"
    folder = volume / "ml/rlrun/tiny-rl-0123abcd"
    other = volume / "ml/rlrun/tiny-rl-9999abcd"
    for path in (folder, other):
        (path / "artifact").mkdir(parents=True)
    assert delete(folder, volume).endswith("is deleted") and not folder.exists() and other.exists()
    assert delete(folder, volume).endswith("is gone already")
    folder.symlink_to(other)
    (volume / "ns").symlink_to(volume / "ml")
    wrong = [volume, volume / "ml", tmp_path, folder, volume / "ns/rlrun/tiny-rl-9999abcd", volume / "ml/../../etc"]
    for path in (*wrong, Path(), volume / "ml/rlrun/.cache-0123abcd", volume / "ml/other/tiny-rl-0123abcd"):
        with pytest.raises(ValueError, match="nothing was deleted"):
            delete(path, volume)
    assert (other / "artifact").exists()


class _Api:
    """What an engine needs of the API server to end a deletion; it remembers what was asked for."""

    def __init__(self, run: Object) -> None:
        self.run, self.asked, self.clock = run, list[str](), Clock()

    async def create(self, obj: Object) -> Object:
        self.asked.append(f"create {obj['kind']} {obj['metadata'].get('name', '')}".rstrip())
        return {**obj, "metadata": {**obj["metadata"], "uid": "u-new", "resourceVersion": "9"}}

    async def delete(self, kind: str, _: str, name: str, *__: object) -> None:
        self.asked.append(f"delete {kind} {name}")

    async def patch_finalizers(self, _: str, __: str, ___: str, finalizers: Sequence[str], ____: str) -> Object:
        self.asked.append(f"finalizers {list(finalizers)}")
        meta = {**self.run["metadata"], "finalizers": list(finalizers), "resourceVersion": "8"}
        return {**self.run, "metadata": meta}


async def test_an_ended_deletion_makes_no_second_job_though_its_watch_is_late() -> None:
    """The Job's end is told before the run's: other finalizers may hold the run, or its watch lags behind."""
    simulation = deleted()
    passes(simulation)
    job = simulation.objects["Job", "tiny-cleanup"]
    job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    simulation.run["metadata"] |= {"resourceVersion": "7", "deletionTimestamp": datetime.now(UTC).isoformat()}
    cache, api, key = Cache(), _Api(simulation.run), ("SFTRun", "ns", "tiny")
    for obj in (simulation.run, *simulation.objects.values()):
        cache.put(compact(obj["kind"], obj))
    engine = Engine(cast(Kube, api), cache, Defaults(), lambda _: {}, lambda *_: None)
    await engine.handle(key)
    assert "delete Job tiny-cleanup" in api.asked and "finalizers []" in api.asked
    cache.remove(compact("Job", job))
    api.asked.clear()
    await engine.handle(key)
    assert api.asked == []


def _gone(cluster: Cluster, name: str) -> bool:
    try:
        cluster.run("SFTRun", name)
    except Refused as refused:
        return refused.status == 404
    return False


@pytest.mark.apiserver
def test_deleting_a_run_deletes_its_folder_by_a_job(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name, artifacts=DELETE)
    (pod,) = cluster.wait_pods(name, "trainer")
    assert cluster.run("SFTRun", name)["metadata"]["finalizers"] == [FINALIZER]
    cluster.start(pod)
    folder = cluster.phase("SFTRun", name, "Running")["runDir"]
    cluster.delete("SFTRun", name)
    (cleanup,) = cluster.reaped(name, lambda: cluster.pods(name, "cleanup"), what="the cleanup's pod")
    assert not cluster.pods(name, "trainer") and not _gone(cluster, name)
    cluster.end(cleanup, 0, succeed())
    eventually(lambda: _gone(cluster, name), what="the run is gone")
    assert ("ArtifactsDeleted", f"the run's folder {folder} is deleted") in cluster.events(name)
    eventually(lambda: not cluster.children("jobs", name), what="the Job is gone")


@pytest.mark.apiserver
def test_without_an_operator_one_line_ends_the_deletion(own: Cluster, own_operator: OperatorProcess) -> None:
    own_operator.start()
    own.create("SFTRun", "left", artifacts=DELETE)
    own.wait_pods("left", "trainer")
    own_operator.kill()
    own.delete("SFTRun", "left")
    assert own.run("SFTRun", "left")["metadata"]["deletionTimestamp"]
    no_finalizer = json.dumps({"metadata": {"finalizers": []}})
    own.server.kubectl("-n", own.namespace, "patch", "sftrun/left", "--type=merge", "-p", no_finalizer)
    eventually(lambda: _gone(own, "left"), what="the run is gone")


@pytest.mark.apiserver
def test_a_namespace_that_goes_takes_such_runs_with_it(own: Cluster, own_operator: OperatorProcess) -> None:
    own_operator.start()
    own.create("SFTRun", "left", artifacts=DELETE)
    own.start(*own.wait_pods("left", "trainer"))
    own.phase("SFTRun", "left", "Running")
    own.server.client.request("DELETE", f"/api/v1/namespaces/{own.namespace}")
    own.reaped("left", lambda: _gone(own, "left"), what="the run is gone")
