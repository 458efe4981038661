"""What the operator tells of itself: log lines that name their run, and metrics whose series are bounded."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from qednano_operator import logs
from qednano_operator.counts import error_reason, known_reason
from qednano_operator.kube import ApiError, Conflict, NotFound, Throttled
from qednano_operator.subject import StatusUnreadable

from qednano.api import KINDS, Phase
from qednano.plan import classify
from tests.kube.apiserver import ApiServer
from tests.operator.harness import Cluster, OperatorProcess, eventually, fail, succeed, unique
from tools.cluster.api_client import MERGE

RUN = {"run_kind": "RLRun", "namespace": "ml", "run": "night", "run_uid": "u-1"}
Written = Callable[[], str]


@pytest.fixture(params=logs.FORMATS)
def form(request: pytest.FixtureRequest) -> Iterator[tuple[str, Written]]:
    """A form of the log, and what was written in it."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.set_up("INFO", request.param, stream)
    yield request.param, stream.getvalue
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_names_the_run_that_the_work_is_on_and_no_other(form: tuple[str, Written]) -> None:
    name, written = form
    log = logging.getLogger("qednano_operator.engine")
    with logs.about("RLRun", "ml", "night", "u-1"):
        log.warning("pod %s is gone", "a\nb")
    log.info("leading")
    if name == "json":
        first, second = map(json.loads, written().splitlines())
        assert first | RUN == first and first["message"] == "pod a\nb is gone" and first["level"] == "WARNING"
        assert first["logger"] == "qednano_operator.engine" and first["time"].endswith("+00:00")
        assert not set(RUN) & set(second)
    else:
        assert "WARNING qednano_operator.engine: RLRun ml/night (u-1): pod a" in written()
        assert "INFO qednano_operator.engine: leading" in written()


def test_what_kopf_says_of_a_run_names_it_and_a_traceback_stays_with_its_line(form: tuple[str, Written]) -> None:
    name, written = form
    reference = {"kind": "RLRun", "namespace": "ml", "name": "night", "uid": "u-1"}
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("kopf.objects").exception("a handler failed", extra={"k8s_ref": reference})
    if name == "json":
        (line,) = map(json.loads, written().splitlines())
        assert line | RUN == line and "ValueError: boom" in line["error"]
    else:
        assert "RLRun ml/night (u-1): a handler failed" in written() and "ValueError: boom" in written()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Conflict("x"), "Conflict"),
        (NotFound("x"), "NotFound"),
        (Throttled("x", 1.0), "Throttled"),
        (ApiError("x"), "Unreachable"),
        (ApiError("x", 403), "Forbidden"),
        (ApiError("x", 422), "Refused"),
        (ApiError("x", 503), "ServerError"),
        (StatusUnreadable("x"), "StatusUnreadable"),
        (KeyError("x"), "Unexpected"),
    ],
)
def test_every_error_has_a_reason(error: Exception, reason: str) -> None:
    assert error_reason(error) == reason


def test_reasons_of_others_are_no_labels() -> None:
    assert all(known_reason(classify(code).reason) == classify(code).reason for code in range(256))
    assert known_reason("OutOfMemory") == "OutOfMemory"
    assert known_reason("anything that a pod or a queue may say") == "Other"


def samples(operator: OperatorProcess) -> dict[str, list[dict[str, Any]]]:
    """Every sample that /metrics shows of the operator: name to its labels, with the value under the empty name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for family in text_string_to_metric_families(operator.get("/metrics")):
        for sample in family.samples:
            if sample.name.startswith("qednano_"):
                found.setdefault(sample.name, []).append({**sample.labels, "": sample.value})
    return found


def value(found: dict[str, list[dict[str, Any]]], name: str, **labels: str) -> float:
    """Sum of the samples of that name that have the labels."""
    return sum(item[""] for item in found.get(name, []) if item.items() >= labels.items())


@pytest.fixture
def telling(qed_server: ApiServer, own: Cluster, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator of the test's own that logs JSON."""
    flags = (f"--namespaces={own.namespace}", "--leader-election=false", "--log-format=json")
    process = OperatorProcess(qed_server.kubeconfig, tmp_path / "operator.log", flags).start()
    yield process
    process.end()


@pytest.mark.apiserver
def test_the_endpoint_tells_of_phases_errors_calls_and_gpus_and_the_log_of_each_run(
    own: Cluster, telling: OperatorProcess
) -> None:
    name = unique("sft")
    gpus = {"trainer": {"maxSteps": 10, "precision": "fp32", "resources": {"gpus": 2}}}
    uid = own.create("SFTRun", name, **gpus)["metadata"]["uid"]
    (pod,) = own.wait_pods(name, "trainer")
    own.start(pod)
    own.phase("SFTRun", name, "Running")
    own.end(pod, 70, fail("MadeUpByThePod", "boom"))
    (pod,) = own.wait_pods(name, "trainer", attempt=2)
    own.start(pod)
    own.phase("SFTRun", name, "Running")
    time.sleep(1.1)  # GPU time is counted in whole seconds
    own.end(pod, 0, succeed())
    since = own.phase("SFTRun", name, "Succeeded")["phaseSince"]
    assert since >= own.status("SFTRun", name)["completionTime"]
    found = samples(telling)
    assert value(found, "qednano_runs", kind="SFTRun", phase="Succeeded") == 1
    assert value(found, "qednano_runs", kind="SFTRun", phase="Running") == 0
    for phase in ("Starting", "Running", "Restarting"):
        assert value(found, "qednano_run_phase_seconds_count", kind="SFTRun", phase=phase) >= 1
    assert value(found, "qednano_run_gpu_seconds_total", namespace=own.namespace, kind="SFTRun") > 0
    assert value(found, "qednano_run_restarts_total", kind="SFTRun", reason="InternalError") == 1
    for verb in ("get", "create", "patch"):
        assert value(found, "qednano_operator_api_requests_total", verb=verb) > 0
        assert value(found, "qednano_operator_api_request_seconds_count", verb=verb) > 0
    assert value(found, "qednano_operator_reconcile_seconds_count", kind="SFTRun") > 5
    assert value(found, "qednano_operator_queue_seconds_count") > 5
    assert value(found, "qednano_operator_queue_depth") == 0
    assert {item["phase"] for item in found["qednano_runs"]} <= set(Phase)
    assert {item["kind"] for item in found["qednano_runs"]} <= set(KINDS)
    text = telling.get("/metrics")
    assert name not in text and uid not in text and pod["metadata"]["name"] not in text

    lines = [json.loads(line) for line in telling.log.read_text().splitlines()]
    mine = [line for line in lines if line.get("run") == name]
    expected = {"run_kind": "SFTRun", "namespace": own.namespace, "run_uid": uid}
    assert {line["message"].split(":")[0] for line in mine} >= {"Starting", "Restarting", "Succeeded"}
    assert all(line | expected == line for line in mine)
    assert not [line for line in lines if name in json.dumps(line) and line.get("run") != name]


@pytest.mark.apiserver
def test_a_pass_that_fails_is_counted_by_why(own: Cluster, telling: OperatorProcess) -> None:
    """An admission webhook of somebody else's, which nobody serves, keeps the run's objects from being made."""
    client = own.server.client
    client.request("PATCH", f"/api/v1/namespaces/{own.namespace}", {"metadata": {"labels": {"closed": "yes"}}}, MERGE)
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    hook = {
        "name": "closed.example.org",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"closed": "yes"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    client.request("POST", path, {"metadata": {"name": own.namespace}, "webhooks": [hook]})
    name = unique("sft")
    try:
        own.create("SFTRun", name)
        eventually(
            lambda: value(samples(telling), "qednano_operator_errors_total", kind="SFTRun", reason="ServerError"),
            what="the error is counted",
        )
    finally:
        client.request("DELETE", f"{path}/{own.namespace}")
    own.wait_pods(name, "trainer")
    lines = [json.loads(line) for line in telling.log.read_text().splitlines()]
    (first, *_) = [line for line in lines if "trying again" in line["message"]]
    assert first["run"] == name and first["level"] == "WARNING"
