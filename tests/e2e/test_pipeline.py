"""The whole way on a real cluster: four manifests in by kubectl, a better prover out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cluster import pod
from tests.kube.apiserver import Kubectl
from tools.cluster.__main__ import Cluster
from tools.cluster.steps import wait_until

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "tiny"
RUNS = {
    "proofdataset/tiny": "artifact/test.parquet",
    "sftrun/tiny-sft": "artifact/model/model.safetensors",
    "rlrun/tiny-rl": "artifact/model/model.safetensors",
    "evalrun/tiny-eval": "artifact/report.html",
}
READ = """
import json, pathlib
root = pathlib.Path("/runs/NAMESPACE")
files = sorted(str(path.relative_to(root)) for path in root.glob("*/*/artifact/**/*") if path.is_file())
scores = json.loads(next(root.glob("evalrun/*/artifact/scores.json")).read_text())
print(json.dumps({"files": files, "scores": scores}))
"""


def show(kube: Kubectl, space: str, name: str, text: str) -> None:
    """Leave what a person would see where CI keeps artifacts; always on standard output."""
    print(f"\n{text}")
    folder = os.environ.get("QEDNANO_E2E_OUTPUT")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_text(text)


def why(kube: Kubectl, space: str) -> str:
    """What an engineer would look at when a run has not succeeded."""
    parts = [kube.kubectl("get", "qed,pods,jobs,statefulsets", "-n", space, "-o", "wide")]
    parts.append(kube.kubectl("get", "events", "-n", space, "--sort-by=.lastTimestamp"))
    for name in kube.kubectl("get", "pods", "-n", space, "-o", "name").split():
        parts.append(f"--- {name}\n" + kube.kubectl("logs", "-n", space, name, "--tail=40"))
    return "\n".join(parts)


def phase(kube: Kubectl, space: str, run: str) -> str:
    return str(kube.get(run, "-n", space).get("status", {}).get("phase", ""))


@pytest.mark.timeout(2400)
def test_four_manifests_in_a_better_prover_out(
    cluster: Cluster, kube: Kubectl, space: str, python_image: str, operator: None
) -> None:
    kube.kubectl("apply", "-n", space, "-f", EXAMPLES)
    for run, seconds in zip(RUNS, (300, 900, 1200, 600), strict=True):

        def ended(run: str = run) -> bool:
            found = phase(kube, space, run)
            if found == "Failed":
                pytest.fail(f"{run} failed\n{why(kube, space)}")
            return found == "Succeeded"

        try:
            wait_until(ended, what=f"{run} to succeed", seconds=seconds)
        except Exception as error:
            pytest.fail(f"{error}\n{why(kube, space)}")
    show(kube, space, "get-qed.txt", kube.kubectl("get", "qed", "-A"))
    show(kube, space, "get-rlr-wide.txt", kube.kubectl("get", "rlr", "-n", space, "-o", "wide"))

    found = read_volume(kube, space, python_image)
    for run, file in RUNS.items():
        kind, _, name = run.partition("/")
        assert any(path.startswith(f"{kind}/{name}-") and path.endswith(file) for path in found["files"]), run
    means = {model["name"]: model["score"]["mean"] for model in found["scores"]["models"]}
    show(kube, space, "scores.json", json.dumps(means))
    assert means["untrained"] <= 0.02
    assert means["sft"] >= 0.2
    assert means["rl"] >= means["sft"] + 0.2

    report = at_a_desk(kube, space, "report", "tiny-eval")
    assert "<html" in Path(report.strip()).read_text()
    show(kube, space, "compare.txt", at_a_desk(kube, space, "compare", "tiny-eval:rl", "tiny-eval:sft"))
    assert "problem" in at_a_desk(kube, space, "data", "show", "tiny", "--json", "--count", "1")
    assert kube.get("pods", "-n", space, "-l", "qednano.dev/reader")["items"] == []

    pods = kube.get("pods", "-n", space, "-l", "qednano.dev/run")["items"]
    assert [item["metadata"]["name"] for item in pods if item["status"]["phase"] == "Running"] == []


def at_a_desk(kube: Kubectl, space: str, *words: str) -> str:
    """What `kubectl qednano WORDS` prints: artifacts come from the volume to this machine."""
    code = "from qednano.cli import plugin; plugin()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--namespace", space],
        env={**os.environ, "KUBECONFIG": str(kube.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_volume(kube: Kubectl, space: str, image: str) -> dict[str, Any]:
    """Artifacts and scores as a pod with the volume sees them."""
    kube.apply(pod("reader", space, image, READ))
    wait_until(
        lambda: kube.get("pod", "reader", "-n", space)["status"]["phase"] in ("Succeeded", "Failed"),
        what="the reading pod",
        seconds=60,
    )
    found: dict[str, Any] = json.loads(kube.kubectl("logs", "-n", space, "reader"))
    return found
