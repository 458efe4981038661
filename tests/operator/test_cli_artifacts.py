"""`kubectl qednano report`, `view`, `compare` and `data`: what a cluster's runs made is fetched from their volume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qednano.artifacts import read_manifest, write_manifest
from tests.operator.harness import Cluster, OperatorProcess, eventually, unique
from tests.operator.kubelet import ExecKubelet
from tests.view.artifact import write_run
from tools.cluster.api_client import MERGE

pytestmark = pytest.mark.apiserver


@dataclass
class Desk:
    """A person's machine, and a cluster on whose volume finished runs have left their artifacts."""

    cluster: Cluster
    kubelet: ExecKubelet
    cache: Path

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        env = {
            **os.environ,
            "KUBECONFIG": str(self.cluster.server.kubeconfig),
            "XDG_CACHE_HOME": str(self.cache),
        }
        code = "from qednano.cli import plugin; plugin()"
        return [sys.executable, "-c", code, *words, "--namespace", self.cluster.namespace], env

    def plugin(self, *words: str) -> subprocess.CompletedProcess[str]:
        command, env = self.command(*words)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    def readers(self) -> list[dict[str, Any]]:
        """The reader pods that are there."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/pods?labelSelector=qednano.dev%2Freader"
        return list(self.cluster.server.client.request("GET", path)["items"])

    def finished(self, kind: str, name: str, make: Callable[[Path], Path]) -> None:
        """A run that the real operator has seen through to its end; ``make`` fills its folder on the volume."""
        self.cluster.create(kind, name)
        (pod,) = self.cluster.wait_pods(name, "evaluate" if kind == "EvalRun" else "dataset")
        env = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
        folder = make(self.kubelet.volume / env["QED_RUN_DIR"].removeprefix("/qed/"))
        artifact = {"uri": f"{env['QED_RUN_DIR']}/artifact", "digest": read_manifest(folder).digest}
        words = {"outcome": "Succeeded", "reason": "Completed", "message": "done", "metrics": {}, "artifact": artifact}
        if kind == "EvalRun":
            for server in self.cluster.wait_pods(name, "server"):
                self.cluster.start(server)
        self.cluster.end(pod, 0, words)
        self.cluster.reaped(
            name,
            lambda: self.cluster.status(kind, name).get("phase") == "Succeeded",
            what=f"the end of {name}",
        )


def evaluation(folder: Path) -> Path:
    """An EvalRun's artifact with scored proofs and a report."""
    made = write_run(folder.parent / "root", folder.name, models={"rl": 0.9, "sft": 0.6}, problems=6, calls=False)
    folder.mkdir(parents=True)
    os.rename(made / "artifact", folder / "artifact")
    return folder / "artifact"


def dataset(folder: Path) -> Path:
    """A ProofDataset's artifact of two rows."""
    artifact = folder / "artifact"
    artifact.mkdir(parents=True)
    rows = [{"id": f"p{number}", "problem": f"Prove {number}."} for number in range(2)]
    (artifact / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(artifact, kind="ProofDataset", name="rows")
    return artifact


@pytest.fixture
def desk(own_operator: OperatorProcess, own: Cluster, tmp_path: Path) -> Iterator[Desk]:
    """A node with a kubelet that starts the reader's pods."""
    kubelet = ExecKubelet(tmp_path / "volume").start()
    node, client = unique("exec"), own.server.client
    client.request("POST", "/api/v1/nodes", {"metadata": {"name": node}})
    where = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
    }
    client.request("PATCH", f"/api/v1/nodes/{node}/status", {"status": where}, MERGE)
    own_operator.start()
    found = Desk(own, kubelet, tmp_path / "cache")
    over = threading.Event()

    def run_readers() -> None:
        while not over.wait(0.1):
            for pod in found.readers():
                if not pod["spec"].get("nodeName"):
                    own.start(pod, node=node)

    thread = threading.Thread(target=run_readers)
    thread.start()
    yield found
    over.set()
    thread.join(20)
    kubelet.stop()
    client.request("DELETE", f"/api/v1/nodes/{node}")


def test_reports_scores_and_rows_of_a_cluster_are_read_here(desk: Desk) -> None:
    desk.finished("EvalRun", "first", evaluation)
    desk.finished("ProofDataset", "rows", dataset)

    said = desk.plugin("report")
    assert said.returncode == 0, said.stderr
    path = Path(said.stdout.strip())
    assert path.is_relative_to(desk.cache) and "<html" in path.read_text()
    assert "to read claim qednano" in said.stderr and "fetching" in said.stderr
    asked = len(desk.kubelet.asked)
    again = desk.plugin("report", "first", "-o", "json")
    assert json.loads(again.stdout)["report"] == str(path) and again.stderr == ""
    assert len(desk.kubelet.asked) == asked, "what is here already needs no pod"

    compared = desk.plugin("compare", "first:rl", "first:sft", "-o", "json")
    assert json.loads(compared.stdout)["problems"] == 6, compared.stderr
    shown = desk.plugin("data", "show", "rows", "--json")
    assert json.loads(shown.stdout.splitlines()[0])["id"] == "p0", shown.stderr
    weights = desk.plugin("report", "nobody")
    assert weights.returncode == 64 and "there is no run nobody" in weights.stderr
    eventually(lambda: not desk.readers(), what="the readers to be gone")

    command, env = desk.command("view", "--port", "0")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            page = urllib.request.urlopen(server.stdout.readline().split()[0], timeout=20).read().decode()
        finally:
            server.send_signal(signal.SIGINT)
    assert "first" in page and "rows" in page


def test_the_reader_is_made_like_the_runs_own_pods_and_can_change_nothing(desk: Desk) -> None:
    desk.finished("ProofDataset", "rows", dataset)
    seen: list[dict[str, Any]] = []
    desk.kubelet.spoil = lambda data: (seen.extend(desk.readers()), data)[1]
    assert desk.plugin("data", "show", "rows").returncode == 0
    (pod,) = seen
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    (job,) = desk.cluster.children("jobs", "rows")
    pattern = job["spec"]["template"]["spec"]
    assert container["image"] == pattern["containers"][0]["image"]
    assert spec["securityContext"] == pattern["securityContext"] and spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (volume,) = (one for one in spec["volumes"] if one["name"] == "storage")
    assert volume["persistentVolumeClaim"] == {"claimName": "qednano", "readOnly": True}
    assert "env" not in container and spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] == 1800 and spec["restartPolicy"] == "Never"
    assert not any(key.startswith("qednano.dev/run") for key in pod["metadata"]["labels"]), "no pod of the run"


def test_what_comes_damaged_or_in_part_is_not_kept(desk: Desk) -> None:
    desk.finished("ProofDataset", "rows", dataset)
    for spoil, sentence in (
        (lambda data: data.replace(b"Prove 0", b"Prove 9"), "train.jsonl differs from what manifest.json says"),
        (lambda data: data[:-5], "the connection to pod qednano-reader-"),
        (lambda data: data + b"x", "more came than the manifest lists"),
    ):
        desk.kubelet.spoil = spoil
        said = desk.plugin("data", "show", "rows")
        assert said.returncode in (65, 69) and sentence in said.stderr.splitlines()[-1], said.stderr
        assert not list(desk.cache.rglob("train.jsonl"))
        eventually(lambda: not desk.readers(), what="the reader to be gone")
    desk.kubelet.spoil = lambda data: data
    (file,) = desk.kubelet.volume.rglob("train.jsonl")
    file.unlink()
    said = desk.plugin("data", "show", "rows")
    assert said.returncode == 69 and "train.jsonl" in said.stderr.splitlines()[-1], said.stderr
