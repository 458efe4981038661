"""What an administrator meets: refusals, columns, deletion, killed and competing operators, live progress."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qednano.progress import Reporter
from tests.kube.apiserver import ApiServer, KubectlFailed
from tests.operator.harness import Cluster, OperatorProcess, eventually, fail, manifest, succeed, unique
from tools.cluster.api_client import Refused

pytestmark = pytest.mark.apiserver


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("SFTRun", {"model": {}}, "exactly one of uri, sftRun, rlRun, init must be set"),
        ("SFTRun", {"model": {"uri": "/qed/m", "init": {}}}, "exactly one of uri, sftRun, rlRun, init must be set"),
        ("SFTRun", {"trainer": {"maxSteps": 2, "warmupSteps": 3}}, "warmupSteps must not exceed maxSteps"),
        ("SFTRun", {"trainer": {"maxSteps": 0}}, "spec.trainer.maxSteps"),
        ("RLRun", {"sampling": {"maxTokens": 4096}}, "sampling.maxTokens must be below rollout.maxModelLength"),
        ("RLRun", {"trainer": {"learningRate": "fast"}}, "spec.trainer.learningRate"),
        ("ProofDataset", {"splits": []}, "spec.splits"),
    ],
)
def test_the_api_server_refuses_what_can_not_be_meant(
    cluster: Cluster, kind: str, change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(Refused) as refused:
        cluster.create(kind, unique("bad"), **change)
    assert refused.value.status == 422 and complaint in str(refused.value)


def test_a_long_name_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="at most 40 characters"):
        cluster.create("SFTRun", "a" * 41)


def test_a_started_run_keeps_its_configuration(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    cluster.wait_pods(name, "trainer")
    with pytest.raises(Refused, match="spec.seed can't change once the run has started"):
        cluster.patch("SFTRun", name, {"seed": 7})
    cluster.patch("SFTRun", name, {"restart": {"maxRestarts": 9}})
    assert cluster.run("SFTRun", name)["spec"]["restart"]["maxRestarts"] == 9


def test_columns_show_where_every_run_is(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    cluster.start(*cluster.wait_pods(name, "trainer"))
    cluster.phase("SFTRun", name, "Running")
    head, *rows = cluster.server.kubectl("-n", "shared", "get", "sft", name).splitlines()
    assert head.split() == ["NAME", "PHASE", "STEP", "OF", "LOSS", "GPUS", "AGE"]
    assert rows[0].split()[:2] == [name, "Running"]
    assert f"sftrun.qednano.dev/{name}" in cluster.server.kubectl("-n", "shared", "get", "qed")


def test_deleting_a_run_takes_its_objects_with_it_and_needs_no_operator(
    own: Cluster, own_operator: OperatorProcess
) -> None:
    own_operator.start()
    name = unique("rl")
    own.create("RLRun", name)
    own.wait_pods(name, "trainer")
    own_operator.kill()
    own.delete("RLRun", name)
    assert not own.server.exists("-n", own.namespace, "rlrun", name), "no finalizer keeps the run"
    for kind in ("jobs", "statefulsets", "services", "configmaps", "pods"):
        eventually(lambda kind=kind: not own.children(kind, name), what=f"{kind} are collected")


def test_an_operator_killed_again_and_again_leaves_exactly_the_wanted_objects(
    own: Cluster, own_operator: OperatorProcess
) -> None:
    names = [unique("rl") for _ in range(4)]
    own_operator.start()
    for name in names:
        own.create("RLRun", name)
    time.sleep(0.15)  # somewhere in the middle of making objects
    own_operator.kill()
    own_operator.start()
    pods = {name: own.wait_pods(name, "trainer") for name in names}
    for name in names:  # it has seen the pods then: of a Job that has failed without one it says that its pod was lost
        own.start(*pods[name], *own.wait_pods(name, "rollout"), *own.wait_pods(name, "actor"))
    for name in names:
        own.phase("RLRun", name, "Running")
    for name in names:
        own.end(pods[name][0], 70, fail("InternalError", "boom"))
    time.sleep(0.1)  # somewhere in the middle of restarting
    own_operator.kill()
    own_operator.start()
    for name in names:
        own.wait_pods(name, "trainer", attempt=2)
        jobs = {job["metadata"]["name"] for job in own.children("jobs", name)}
        assert jobs == {f"{name}-trainer-a1-0", f"{name}-trainer-a2-0", f"{name}-actor-a1-0"}
        assert len(own.children("statefulsets", name)) == 1
        status = own.status("RLRun", name)
        assert (status["attempt"], status.get("countedRestarts"), len(status["attempts"])) == (2, 1, 1), status
    assert own_operator.stop() == 0


def test_a_standby_takes_over_and_a_leader_gone_in_good_order_is_not_waited_for(
    qed_server: ApiServer, own: Cluster, tmp_path: Path
) -> None:
    flags = (f"--namespaces={own.namespace}", f"--lease-namespace={own.namespace}")
    first, standby = (OperatorProcess(qed_server.kubeconfig, tmp_path / f"{name}.log", flags) for name in "ab")
    first.start()
    try:
        eventually(lambda: "qednano_operator_leader 1.0" in first.get("/metrics"), what="the first leads")
        standby.start()
        assert "qednano_operator_leader 0.0" in standby.get("/metrics")
        assert first.stop() == 0
        stopped = time.monotonic()
        eventually(lambda: "qednano_operator_leader 1.0" in standby.get("/metrics"), what="the second leads")
        assert time.monotonic() - stopped < 10, "the lease was given up, not left to expire"
        name = unique("sft")
        own.create("SFTRun", name)
        own.wait_pods(name, "trainer")
    finally:
        first.end()
        standby.end()


def test_nothing_is_written_on_other_peoples_objects(cluster: Cluster) -> None:
    """A Service that happens to have the run's name is left alone, and the run says so."""
    name = unique("sft")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
    }
    path = "/api/v1/namespaces/shared/services"
    before = cluster.server.client.request("POST", path, service)
    cluster.create("SFTRun", name)
    eventually(
        lambda: f"Service {name} belongs to nobody's run" in cluster.status("SFTRun", name).get("message", ""),
        what="the run says whose name it is",
    )
    after = cluster.server.client.request("GET", f"{path}/{name}")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_what_the_api_server_refuses_is_told_on_the_run(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name, scheduling={"nodeSelector": {"gpu": "no such value!"}})
    expected = f"Job {name}-trainer-a1-0 is refused: "
    message = eventually(
        lambda: text if (text := cluster.status("SFTRun", name).get("message", "")).startswith(expected) else None,
        what="the run says what was refused",
    )
    assert "no such value!" in message
    eventually(lambda: ("ObjectRefused", message) in cluster.events(name), what="the Event that follows the status")


def test_two_kinds_with_one_name_do_not_fight(cluster: Cluster) -> None:
    name = unique("both")
    cluster.create("SFTRun", name)
    cluster.wait_pods(name, "trainer")
    cluster.create("ProofDataset", name)
    status = cluster.phase("ProofDataset", name, "Waiting")
    assert f"belongs to SFTRun {name}; give this ProofDataset another name" in status["message"]


def test_runs_carry_no_finalizer_or_annotation_of_the_operator(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    cluster.start(*cluster.wait_pods(name, "trainer"))
    cluster.phase("SFTRun", name, "Running")
    meta = cluster.run("SFTRun", name)["metadata"]
    assert "finalizers" not in meta and "annotations" not in meta


class _Server(threading.Thread):
    """Answers GET /progress on port 9090 of its own loopback address, as a pod would."""

    def __init__(self, ip: str, body: bytes) -> None:
        super().__init__(daemon=True)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((ip, 9090), Handler)

    def run(self) -> None:
        self.server.serve_forever()


@pytest.fixture
def reporters() -> Iterator[dict[str, Reporter]]:
    """Reporters of a trainer and an actor, each on its own loopback address."""
    found = {"127.0.9.1": Reporter(total=40), "127.0.9.2": Reporter(total=40)}
    for ip, reporter in found.items():
        reporter.serve(9090, ip)
    yield found
    for reporter in found.values():
        reporter.close()


def test_progress_of_a_live_run_is_in_its_status(cluster: Cluster, reporters: dict[str, Reporter]) -> None:
    name = unique("rl")
    cluster.create("RLRun", name)
    cluster.start(*cluster.wait_pods(name, "rollout"))
    cluster.start(*cluster.wait_pods(name, "trainer"), ip="127.0.9.1")
    cluster.start(*cluster.wait_pods(name, "actor"), ip="127.0.9.2")
    trainer, actor = reporters.values()
    trainer.update(step=12, stage="train", metrics={"loss": 0.5, "staleness": 1.25})
    actor.update(step=90, stage="sample", metrics={"reward": 0.4375})
    eventually(
        lambda: (cluster.status("RLRun", name).get("progress") or {}).get("headline") == "0.4375", what="the reward"
    )
    progress = cluster.status("RLRun", name)["progress"]
    assert (progress["step"], progress["total"], progress["stage"], progress["staleness"]) == (12, 40, "train", "1.25")
    trainer.update(step=13)
    eventually(lambda: cluster.status("RLRun", name)["progress"]["step"] == 13, what="the next step")
    row = cluster.server.kubectl("-n", "shared", "get", "rlr", name, "--no-headers").split()
    assert row[1:6] == ["Running", "13", "40", "0.4375", "1.25"]


def test_a_pod_that_answers_nonsense_changes_nothing(cluster: Cluster) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    nonsense = _Server("127.0.9.3", json.dumps({"step": "many", "metrics": [1]}).encode())
    nonsense.start()
    try:
        (pod,) = cluster.wait_pods(name, "trainer")
        cluster.start(pod, ip="127.0.9.3")
        cluster.phase("SFTRun", name, "Running")
        time.sleep(3)  # longer than the interval of pulling
        assert "progress" not in cluster.status("SFTRun", name)
        cluster.end(pod, 0, succeed())
        cluster.phase("SFTRun", name, "Succeeded")
    finally:
        nonsense.server.shutdown()


def test_metrics_count_what_happened(cluster: Cluster, operator: OperatorProcess) -> None:
    name = unique("sft")
    cluster.create("SFTRun", name)
    (pod,) = cluster.wait_pods(name, "trainer")
    cluster.end(pod, 78, fail("ConfigError", "no"))
    cluster.phase("SFTRun", name, "Failed")
    text = operator.get("/metrics")
    assert 'qednano_run_phase_transitions_total{kind="SFTRun",phase="Failed"}' in text
    assert 'qednano_runs{kind="SFTRun",phase="Failed"}' in text
    assert operator.get("/healthz") == "ok\n"


def test_an_unknown_field_is_named_by_strict_validation(cluster: Cluster) -> None:
    run = manifest("SFTRun", unique("bad"), "shared", trainer={"maxSteps": 1, "learningRat": "1e-4"})
    with pytest.raises((KubectlFailed, Refused), match="learningRat"):
        cluster.server.client.request("POST", cluster.path("SFTRun") + "?fieldValidation=Strict", run)
