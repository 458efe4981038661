"""`kubectl qednano`: the command line's words on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.kube.apiserver import ApiServer
from tests.operator.harness import manifest, unique


@pytest.mark.apiserver
def test_runs_of_a_cluster_are_shown_and_steered(qed_server: ApiServer) -> None:
    name = unique("cli")
    qed_server.apply(manifest("EvalRun", name, "default"))
    env = {**os.environ, "KUBECONFIG": str(qed_server.kubeconfig)}

    def plugin(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from qednano.cli import plugin; plugin()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env)

    (shown,) = json.loads(plugin("status", f"evr/{name}", "-o", "json").stdout)
    assert shown["run"] == f"EvalRun/{name}" and shown["namespace"] == "default"
    assert f"EvalRun/{name}" in plugin("status").stdout
    for verb, field, value in (("suspend", "suspend", True), ("resume", "suspend", False), ("cancel", "cancel", True)):
        done = plugin(verb, name)
        assert done.returncode == 0, done.stderr
        assert qed_server.get("evalrun", name)["spec"][field] is value
    late = plugin("wait", name, "--timeout", "0.1")
    assert late.returncode == 69 and "is Pending after 0.1 s" in late.stderr
    missing = plugin("suspend", "nobody")
    assert missing.returncode == 64 and "there is no run nobody in namespace default" in missing.stderr
