"""A trainer on two nodes, one rank of which is killed: with the operator's real decisions, commands and environment.

The cluster is in memory; its pods are real processes here, which meet at a loopback address instead of the pod's name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qednano.artifacts import MANIFEST, verify
from tests.operator.harness import free_port
from tests.operator.simulation import LABEL, Simulation

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
STEPS = 12


@dataclass
class Kubelet:
    """Runs the pods of a simulated cluster as processes in `folder`, which takes the place of the volume."""

    cluster: Simulation
    folder: Path
    ports: dict[str, int] = field(default_factory=dict)  # attempt to where its ranks meet
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)  # when a pod was sent SIGTERM

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(f"{self.folder}{self.cluster.status['runDir']}")

    def step(self) -> None:
        """One round of everybody: operator, controllers, kubelet."""
        self.cluster.now = datetime.now(UTC)
        self.cluster.operator()
        self.cluster.controllers()
        for pod in self.cluster.pods("trainer"):
            name = pod["metadata"]["name"]
            if name not in self.running:
                self._start(name, pod)
            if pod["metadata"].get("deletionTimestamp"):
                self._stop(name)
            code = self.running[name].poll()
            if code is not None:
                self._ended(name, pod, code)
        gone = [pod for pod in self.cluster.pods() if self.running[pod["metadata"]["name"]].poll() is not None]
        self.cluster.stuck = {pod["metadata"]["uid"] for pod in self.cluster.pods() if pod not in gone}
        self.cluster.reap()

    def pod(self, index: int) -> str:
        """Name of the newest pod of a rank."""
        labelled = [
            pod for pod in self.cluster.pods("trainer") if pod["metadata"]["labels"][LABEL + "index"] == str(index)
        ]
        return str(max(labelled, key=lambda pod: int(pod["metadata"]["labels"][LABEL + "attempt"]))["metadata"]["name"])

    def _start(self, name: str, pod: dict[str, Any]) -> None:
        (job,) = [
            obj
            for (kind, _), obj in self.cluster.objects.items()
            if kind == "Job" and obj["metadata"]["uid"] == pod["metadata"]["ownerReferences"][0]["uid"]
        ]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        home = self.folder / name
        home.mkdir()
        (config,) = [obj for (kind, _), obj in self.cluster.objects.items() if kind == "ConfigMap"]
        (home / "config.json").write_text(config["data"]["config.json"])
        self.commands[name] = container["command"]
        env = os.environ | {item["name"]: item["value"] for item in container["env"] if "value" in item}
        env |= {
            "QED_CONFIG": str(home / "config.json"),
            "QED_RUN_DIR": str(self.run_dir),
            "QED_METRICS_PORT": str(free_port()),
            "QED_TERMINATION_PATH": str(home / "last-words"),
            "QED_SCRATCH": str(home / "scratch"),
            "HOME": str(home),
            "HF_HOME": str(self.folder / "hf"),
        }
        with (home / "log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                self._here(container["command"]), env=env, stdout=log, stderr=log, start_new_session=True
            )
        self.cluster.start(pod)

    def _here(self, command: list[str]) -> list[str]:
        """The same command on this machine: its Python, and a port of the loopback address for the pod's name."""
        (master,) = [word for word in command if word.startswith("--master-addr=")]
        port = self.ports.setdefault(master, free_port())
        here = [f"--master-port={port}" if word.startswith("--master-port=") else word for word in command[1:]]
        return [sys.executable, *("--master-addr=127.0.0.1" if word == master else word for word in here)]

    def _stop(self, name: str) -> None:
        process = self.running[name]
        since = self.asked.setdefault(name, time.monotonic())
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if time.monotonic() - since < GRACE else signal.SIGKILL)

    def _ended(self, name: str, pod: dict[str, Any], code: int) -> None:
        self.cluster.end(pod, code if code >= 0 else 128 - code)
        words = self.folder / name / "last-words"
        state = pod["status"]["containerStatuses"][0].get("state", {}).get("terminated")
        if state is not None and words.exists():
            state["message"] = words.read_text()

    def until(self, what: str, met: Any, seconds: float = 150) -> None:
        """Go on until something is the case."""
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, f"{what}: not in time\n{self.cluster.status}\n{self.logs()}"
            self.step()
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {path}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*/log")))

    def end(self) -> None:
        """Kill what is left."""
        for process in self.running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ranks(launcher: int) -> list[int]:
    """Process ids of the ranks that a torchrun has started."""
    found: list[int] = []
    for task in Path(f"/proc/{launcher}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


@pytest.fixture
def kubelet(tmp_path: Path, split: Path):
    sizes = {"hiddenSize": 32, "layers": 2, "heads": 2, "kvHeads": 1, "mlpSize": 64, "maxLength": 256}
    trainer = {
        **{"maxSteps": STEPS, "nodes": 2, "processes": 1, "threads": 1, "precision": "fp32", "zeroStage": 2},
        **{"batchTokens": 1500, "microBatchTokens": 512, "sequenceLength": 128, "warmupSteps": 2},
    }
    cluster = Simulation.of(
        "SFTRun",
        model={"init": sizes},
        dataset={"uri": str(split)},
        trainer=trainer,
        checkpoint={"everySteps": 2, "keepLast": 9},
        restart={"maxRestarts": 2, "backoffSeconds": 0, "maxBackoffSeconds": 0},
    )
    found = Kubelet(cluster, tmp_path)
    yield found
    found.end()


def test_a_gang_that_lost_a_rank_meets_again_and_goes_on_from_its_checkpoint(kubelet: Kubelet) -> None:
    cluster = kubelet.cluster

    def checkpoints() -> dict[str, int]:
        found = kubelet.run_dir.glob(f"checkpoints/step-*/{MANIFEST}") if cluster.status.get("runDir") else ()
        return {path.parent.name: path.stat().st_mtime_ns for path in found}

    kubelet.until("a checkpoint of both ranks", lambda: len(checkpoints()) >= 2)
    before = checkpoints()
    first = {kubelet.pod(index) for index in (0, 1)}
    (rank,) = ranks(kubelet.running[kubelet.pod(1)].pid)
    os.kill(rank, signal.SIGKILL)
    kubelet.until("the next attempt", lambda: cluster.status["attempt"] == 2)
    kubelet.until("the end", lambda: cluster.status["phase"] in ("Succeeded", "Failed"))

    status = cluster.status
    assert status["phase"] == "Succeeded" and status["attempt"] == 2, kubelet.logs()
    assert len(status["attempts"]) == 1 and status["countedRestarts"] == 1
    assert all(kubelet.running[name].returncode not in (None, 0) for name in first), "nobody of the first outlived it"
    met = {word for command in kubelet.commands.values() for word in command if word.startswith("--master-addr=")}
    assert met == {f"--master-addr=tiny-trainer-a{attempt}-0.tiny.ns.svc" for attempt in (1, 2)}
    assert before.items() <= checkpoints().items(), "what was saved before is neither lost nor made again"
    assert f"step-{STEPS:08d}" in checkpoints()
    assert verify(kubelet.run_dir / "artifact").metrics["loss"] > 0
