"""`kubectl qednano`: the command line's words on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import REPOSITORY
from tests.kube.apiserver import ApiServer
from tests.operator.harness import manifest, unique


def kubectl_qednano(server: ApiServer, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The plugin against this server."""
    command = [sys.executable, "-c", "from qednano.cli import plugin; plugin()", *map(str, arguments)]
    env = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.apiserver
def test_runs_of_a_cluster_are_shown_and_steered(qed_server: ApiServer) -> None:
    name = unique("cli")
    qed_server.apply(manifest("EvalRun", name, "default"))

    def plugin(*arguments: str) -> subprocess.CompletedProcess[str]:
        return kubectl_qednano(qed_server, *arguments)

    (shown,) = json.loads(plugin("status", f"evr/{name}", "-o", "json").stdout)
    assert shown["run"] == f"EvalRun/{name}" and shown["namespace"] == "default"
    assert f"EvalRun/{name}" in plugin("status").stdout
    for verb, field, value in (("suspend", "suspend", True), ("resume", "suspend", False), ("cancel", "cancel", True)):
        done = plugin(verb, name)
        assert done.returncode == 0, done.stderr
        assert qed_server.get("evalrun", name)["spec"][field] is value
    late = plugin("wait", name, "--timeout", "0.1")
    assert late.returncode == 69 and "is Pending after 0.1 s" in late.stderr
    assert json.loads(plugin("wait", name, "--for", "Pending", "-o", "json").stdout)["run"] == f"EvalRun/{name}"
    missing = plugin("suspend", "nobody")
    assert missing.returncode == 64 and "there is no run nobody in namespace default" in missing.stderr


@pytest.mark.apiserver
def test_manifests_are_checked_and_applied_by_the_same_words(qed_server: ApiServer, tmp_path: Path) -> None:
    namespace = qed_server.new_namespace()
    example = REPOSITORY / "examples/tiny"
    checked = kubectl_qednano(qed_server, "validate", example, "--namespace", namespace)
    assert checked.returncode == 0 and checked.stdout.startswith("4 valid: "), checked.stderr
    assert not qed_server.client.request("GET", f"/apis/qednano.dev/v1alpha1/namespaces/{namespace}/rlruns")["items"]
    for _ in range(2):  # applying again changes nothing
        applied = kubectl_qednano(qed_server, "run", example, "--namespace", namespace)
        assert f"applied RLRun/tiny-rl in namespace {namespace}" in applied.stdout, applied.stderr
    written = qed_server.client.request("GET", f"/apis/qednano.dev/v1alpha1/namespaces/{namespace}/rlruns/tiny-rl")
    assert written["metadata"]["generation"] == 1 and written["spec"]["algorithm"]["maxSteps"] == 70

    asked = ("eval", "tiny-rl", "--on", "tiny/test", "--grader", "tiny-divisibility", "--namespace", namespace)
    said = kubectl_qednano(qed_server, *asked, "-o", "json")
    assert json.loads(said.stdout) == [{"run": f"{namespace}/EvalRun/tiny-rl-on-test", "namespace": namespace}]
    path = f"/apis/qednano.dev/v1alpha1/namespaces/{namespace}/evalruns/tiny-rl-on-test"
    assert qed_server.client.request("GET", path)["spec"]["model"]["rlRun"]["name"] == "tiny-rl"

    nowhere = kubectl_qednano(qed_server, "run", example, "--namespace", "nowhere")
    assert nowhere.returncode == 78 and 'namespaces "nowhere" not found' in nowhere.stderr
    assert nowhere.stderr.count("\n") == 1
    file = tmp_path / "changed.yaml"
    file.write_text((example / "1-dataset.yaml").read_text().replace("name: tiny\n", "name: Tiny\n", 1))
    refused = kubectl_qednano(qed_server, "validate", file, "--namespace", namespace)
    assert refused.returncode == 78 and "metadata.name" in refused.stderr


@pytest.mark.apiserver
def test_doctor_says_what_the_cluster_has_and_how_to_get_the_rest(qed_server: ApiServer) -> None:
    namespace = qed_server.new_namespace()
    done = kubectl_qednano(qed_server, "doctor", "--namespace", namespace, "-o", "json")
    found = {item["what"]: item for item in json.loads(done.stdout)}
    assert done.returncode == 1  # there is no claim and no operator yet
    assert found["kinds"]["ok"] and found["rights"]["ok"]
    assert not found["volume"]["ok"] and "make one with ReadWriteMany" in found["volume"]["remedy"]
    assert not found["operator"]["ok"] and found["operator"]["remedy"].startswith("helm install qednano")
    claim = {
        "metadata": {"name": "qednano"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    qed_server.client.request("POST", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim)
    again = kubectl_qednano(qed_server, "doctor", "--namespace", namespace)
    assert "ok    volume" in again.stdout and "ReadWriteMany" in again.stdout
    installed = {
        group["name"] for group in qed_server.client.request("GET", "/apis")["groups"]
    }  # other tests bring Kueue
    assert "queues" in again.stdout
    assert ("Kueue is not installed" in again.stdout) is ("kueue.x-k8s.io" not in installed)
