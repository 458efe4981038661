"""The real operator against a real API server: from a run's creation to its end."""

import json
import time

import pytest

from tests.operator.harness import Cluster, eventually, fail, succeed, unique

pytestmark = pytest.mark.apiserver


def test_a_run_goes_from_creation_to_success(cluster: Cluster) -> None:
    name = unique("sft")
    run = cluster.create("SFTRun", name)
    (pod,) = cluster.wait_pods(name, "trainer")
    status = cluster.phase("SFTRun", name, "Starting")
    assert status["attempt"] == 1 and status["startTime"]
    assert status["runDir"] == f"/qed/shared/sftrun/{name}-{run['metadata']['uid'][:8]}"
    (job,) = cluster.children("jobs", name)
    assert job["metadata"]["name"] == f"{name}-trainer-a1-0"
    assert job["metadata"]["ownerReferences"][0]["uid"] == run["metadata"]["uid"]
    (config,) = cluster.children("configmaps", name)
    resolved = json.loads(config["data"]["config.json"])
    assert resolved["spec"]["trainer"]["learningRate"] == "0.00001"
    assert resolved["inputs"]["dataset"]["uri"] == "/qed/data.parquet"

    cluster.start(pod)
    status = cluster.phase("SFTRun", name, "Running")
    assert status["roles"] == [{"name": "trainer", "desired": 1, "ready": 1, "restarts": 0, "attempt": 1}]

    cluster.end(pod, 0, succeed({"loss": "0.25"}, "/qed/shared/artifact"))
    status = cluster.phase("SFTRun", name, "Succeeded")
    assert status["artifact"]["uri"] == "/qed/shared/artifact"
    assert status["artifact"]["digest"].startswith("sha256:")
    assert status["completionTime"]
    assert [job["metadata"]["name"] for job in cluster.children("jobs", name)] == [f"{name}-trainer-a1-0"]
    eventually(lambda: not cluster.children("services", name), what="the Service is gone")
    reasons = [reason for reason, _ in cluster.events(name)]
    assert {"Starting", "Started", "Succeeded"} <= set(reasons)
    assert len(reasons) == len(set(reasons))
    cluster.server.kubectl("-n", "shared", "wait", "--for=condition=Succeeded", f"sftrun/{name}", "--timeout=5s")


def test_a_run_waits_for_what_it_refers_to_and_starts_when_that_is_there(cluster: Cluster) -> None:
    data, name = unique("data"), unique("sft")
    cluster.create("SFTRun", name, dataset={"proofDataset": {"name": data, "split": "sft"}})
    status = cluster.phase("SFTRun", name, "Waiting")
    assert status["message"] == (
        f"spec.dataset.proofDataset names ProofDataset {data}, which does not exist in namespace shared; waiting for it"
    )
    assert not cluster.children("jobs", name)

    cluster.create("ProofDataset", data)
    (pod,) = cluster.wait_pods(data, "dataset")
    expected = f"spec.dataset.proofDataset waits for ProofDataset {data}, which is Starting"
    eventually(lambda: cluster.status("SFTRun", name)["message"] == expected, what="it says what it waits for")
    cluster.start(pod)
    cluster.end(pod, 0, succeed(uri=f"/qed/shared/{data}/artifact"))
    cluster.phase("ProofDataset", data, "Succeeded")

    cluster.phase("SFTRun", name, "Starting")
    assert cluster.status("SFTRun", name)["inputs"] == [
        {
            "field": "dataset",
            "name": f"ProofDataset/{data}",
            "uri": f"/qed/shared/{data}/artifact/sft.parquet",
            "digest": "sha256:" + "0" * 64,
        }
    ]


def test_a_run_whose_reference_failed_fails_and_says_which(cluster: Cluster) -> None:
    source, name = unique("sft"), unique("eval")
    cluster.create("EvalRun", name, model={"sftRun": {"name": source}})
    cluster.phase("EvalRun", name, "Waiting")
    cluster.create("SFTRun", source)
    (pod,) = cluster.wait_pods(source, "trainer")
    cluster.end(pod, 65, fail("DataError", "/qed/data.parquet: row 3 has no solution"))
    assert cluster.phase("SFTRun", source, "Failed")["message"] == "/qed/data.parquet: row 3 has no solution"
    status = cluster.phase("EvalRun", name, "Failed")
    assert status["message"] == (
        f"spec.model.sftRun needs SFTRun {source}, which failed: /qed/data.parquet: row 3 has no solution"
    )
    assert not cluster.children("statefulsets", name)


def test_a_configuration_error_is_never_retried(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    (pod,) = cluster.wait_pods(name, "trainer")
    cluster.end(pod, 78, fail("ConfigError", "spec.trainer.zeroStage is 3, which needs GPUs; set it to 0"))
    status = cluster.phase("SFTRun", name, "Failed")
    assert status["message"] == "spec.trainer.zeroStage is 3, which needs GPUs; set it to 0"
    assert status["attempt"] == 1 and "countedRestarts" not in {k for k, v in status.items() if v}
    (attempt,) = status["attempts"]
    assert (attempt["reason"], attempt["exitCode"], attempt["role"]) == ("ConfigError", 78, "trainer")
    assert ("Failed", status["message"]) in cluster.events(name)
    assert len(cluster.children("jobs", name)) == 1


def test_a_failure_restarts_with_back_off_until_the_restarts_are_used_up(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name, restart={"maxRestarts": 1, "backoffSeconds": 2, "maxBackoffSeconds": 2})
    (pod,) = cluster.wait_pods(name, "trainer", attempt=1)
    cluster.start(pod)
    cluster.phase("SFTRun", name, "Running")
    ended = time.time()
    cluster.end(pod, 70, fail("InternalError", "the loss went away"))
    status = cluster.phase("SFTRun", name, "Restarting")
    assert status["attempt"] == 2 and status["countedRestarts"] == 1 and status["retryAfter"]
    assert "the loss went away" in status["message"] and "attempt 2 starts in 2 s" in status["message"]
    (pod,) = cluster.wait_pods(name, "trainer", attempt=2)
    assert time.time() - ended >= 2
    environment = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
    assert environment["QED_ATTEMPT"] == "2"
    cluster.start(pod)
    cluster.phase("SFTRun", name, "Running")
    cluster.end(pod, 70, fail("InternalError", "again"))
    status = cluster.phase("SFTRun", name, "Failed")
    assert status["message"] == ("trainer failed again after 1 restarts (spec.restart.maxRestarts), last: again")
    assert [item["number"] for item in status["attempts"]] == [1, 2]
    jobs = {job["metadata"]["name"] for job in cluster.children("jobs", name)}
    assert jobs == {f"{name}-trainer-a1-0", f"{name}-trainer-a2-0"}, "finished Jobs stay, for their logs"


def test_an_eviction_is_not_counted(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    (pod,) = cluster.wait_pods(name, "trainer", attempt=1)
    cluster.start(pod)
    cluster.set_pod(pod, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."})
    (pod,) = cluster.wait_pods(name, "trainer", attempt=2)
    status = cluster.status("SFTRun", name)
    assert status.get("countedRestarts", 0) == 0
    assert status["attempts"][0]["reason"] == "Evicted" and status["attempts"][0]["counted"] is False


def test_a_pod_that_cannot_be_scheduled_says_so_in_the_schedulers_words(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    (pod,) = cluster.wait_pods(name, "trainer")
    words = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    cluster.set_pod(pod, {"phase": "Pending", "conditions": [condition]})
    expected = f"{pod['metadata']['name']} can't be scheduled: {words}"
    eventually(lambda: cluster.status("SFTRun", name)["message"] == expected, what="the scheduler's words")
    assert cluster.status("SFTRun", name)["phase"] == "Starting"
    assert ("Unschedulable", expected) in cluster.events(name)


def test_suspend_stops_the_pods_and_resume_continues_with_another_attempt(cluster: Cluster) -> None:
    name = unique("rl")
    cluster.create("RLRun", name)
    for role in ("rollout", "trainer", "actor"):
        cluster.start(*cluster.wait_pods(name, role))
    cluster.phase("RLRun", name, "Running")
    cluster.patch("RLRun", name, {"suspend": True})
    status = cluster.phase("RLRun", name, "Suspending")
    eventually(lambda: not cluster.pods(name), what="every pod is asked to stop")
    assert cluster.status("RLRun", name)["phase"] == "Suspending", "pods that still save are waited for"
    cluster.reaped(name, lambda: not cluster.children("pods", name), what="pods are gone")
    status = cluster.phase("RLRun", name, "Suspended")
    assert not cluster.children("statefulsets", name)
    cluster.patch("RLRun", name, {"suspend": False})
    (pod,) = cluster.wait_pods(name, "trainer", attempt=2)
    cluster.wait_pods(name, "rollout")
    status = cluster.status("RLRun", name)
    assert status["attempt"] == 2 and status.get("countedRestarts", 0) == 0
    assert status["attempts"][-1]["reason"] == "Suspended"


def test_success_takes_servers_and_helpers_down_before_it_says_succeeded(cluster: Cluster) -> None:
    name = unique("rl")
    cluster.create("RLRun", name)
    for role in ("rollout", "trainer", "actor"):
        cluster.start(*cluster.wait_pods(name, role))
    cluster.phase("RLRun", name, "Running")
    (trainer,) = cluster.pods(name, "trainer")
    cluster.end(trainer, 0, succeed({"reward": "0.75"}))
    cluster.phase("RLRun", name, "Completing")
    eventually(lambda: not cluster.children("statefulsets", name), what="the servers' StatefulSet is gone")
    cluster.reaped(
        name,
        lambda: cluster.status("RLRun", name)["phase"] == "Succeeded",
        what="succeeded once the helpers are gone",
    )
    assert [job["metadata"]["name"] for job in cluster.children("jobs", name)] == [f"{name}-trainer-a1-0"]


def test_a_failed_actor_restarts_alone(cluster: Cluster) -> None:
    name = unique("rl")
    cluster.create("RLRun", name)
    for role in ("rollout", "trainer", "actor"):
        cluster.start(*cluster.wait_pods(name, role))
    cluster.phase("RLRun", name, "Running")
    (actor,) = cluster.pods(name, "actor")
    cluster.end(actor, 69, fail("DependencyUnavailable", "no rollout server answers"))
    cluster.wait_pods(name, "actor", attempt=2)
    assert [pod["metadata"]["labels"]["qednano.dev/attempt"] for pod in cluster.pods(name, "trainer")] == ["1"]
    roles = {role["name"]: role for role in cluster.status("RLRun", name)["roles"]}
    assert roles["actor"]["attempt"] == 2 and roles["trainer"]["attempt"] == 1


def test_rollouts_scale_in_mid_run(cluster: Cluster) -> None:
    name = unique("rl")
    cluster.create("RLRun", name)
    for role in ("rollout", "trainer", "actor"):
        cluster.start(*cluster.wait_pods(name, role))
    cluster.phase("RLRun", name, "Running")
    cluster.server.kubectl("-n", "shared", "scale", f"rlrun/{name}", "--replicas=3")
    cluster.start(*cluster.wait_pods(name, "rollout", 3))
    eventually(lambda: cluster.status("RLRun", name)["rolloutReplicas"] == 3, what="the scale is in the status")
    assert cluster.status("RLRun", name)["phase"] == "Running"
