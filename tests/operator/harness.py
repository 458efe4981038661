"""What the operator's tests share: manifests, the operator as a process, and a stand-in for the kubelet."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qednano.api import API_VERSION, KINDS
from tests.kube.apiserver import ApiServer
from tools.cluster.api_client import MERGE, Refused

T = TypeVar("T")
NODE = "node1"
CHECKER = {"checker": {"name": "tiny-divisibility"}}
QUICK = {"maxRestarts": 2, "backoffSeconds": 1, "maxBackoffSeconds": 2}


def unique(stem: str = "run") -> str:
    """A name no other test has."""
    return f"{stem}-{uuid.uuid4().hex[:6]}"


def manifest(kind: str, name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A run with the smallest valid spec of its kind, and the given fields."""
    smallest: dict[str, dict[str, Any]] = {
        "ProofDataset": {
            "sources": [{"name": "tiny", "generator": {"name": "tiny-divisibility"}}],
            "splits": [{"name": "sft", "problems": 8}, {"name": "rl", "problems": 8}],
        },
        "SFTRun": {
            "model": {"init": {}},
            "dataset": {"uri": "/qed/data.parquet"},
            "trainer": {"maxSteps": 10, "precision": "fp32"},
        },
        "RLRun": {
            "model": {"uri": "/qed/model"},
            "dataset": {"uri": "/qed/data.parquet"},
            "algorithm": {"maxSteps": 10},
            "grader": CHECKER,
        },
        "EvalRun": {"model": {"uri": "/qed/model"}, "benchmark": {"uri": "/qed/data.parquet"}, "grader": CHECKER},
    }
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**smallest[kind], "restart": QUICK, **spec},
    }


def eventually(probe: Callable[[], T], *, what: str, seconds: float = 40.0) -> T:
    """The first true value of ``probe``; AssertionError with the last value after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s; last seen {value!r}")
        time.sleep(0.1)


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class OperatorProcess:
    """The real operator, as a process of its own."""

    kubeconfig: Path
    log: Path
    flags: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "qednano_operator.main")
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 60.0) -> OperatorProcess:
        """Start it and return once it is ready; AssertionError when that takes longer."""
        argv = [sys.executable, *self.program, f"--port={self.port}", "--bind=127.0.0.1", *self.flags]
        env = {key: value for key, value in os.environ.items() if not key.startswith("QED_")}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, env={**env, "KUBECONFIG": str(self.kubeconfig)}, stdout=out, stderr=out
            )
        eventually(self.ready, what=f"operator ready, see {self.log}", seconds=seconds)
        return self

    def ready(self) -> bool:
        """Whether /readyz says so."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.get("/readyz") == "ok\n"
        except OSError:
            return False

    def get(self, path: str) -> str:
        """A page of its HTTP port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(40)

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


@dataclass(frozen=True)
class Cluster:
    """One namespace of a real API server, with the test in the kubelet's place."""

    server: ApiServer
    namespace: str

    # runs

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        """The URL path of a run or of its collection."""
        parts = [f"/apis/{API_VERSION}/namespaces/{self.namespace}/{KINDS[kind].plural}", name, subresource]
        return "/".join(part for part in parts if part)

    def create(self, kind: str, name: str, **spec: Any) -> dict[str, Any]:
        """Create a run with the smallest spec and the given fields."""
        run: dict[str, Any] = self.server.client.request(
            "POST", self.path(kind), manifest(kind, name, self.namespace, **spec)
        )
        return run

    def run(self, kind: str, name: str) -> dict[str, Any]:
        """The run as it is now."""
        found: dict[str, Any] = self.server.client.request("GET", self.path(kind, name))
        return found

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """Its status."""
        return dict(self.run(kind, name).get("status") or {})

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Merge into the spec."""
        self.server.client.request("PATCH", self.path(kind, name), {"spec": spec}, MERGE)

    def set_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        """Write a status as an operator would, for runs that another run refers to."""
        self.server.client.request("PATCH", self.path(kind, name, "status"), {"status": status}, MERGE)

    def delete(self, kind: str, name: str) -> None:
        """Delete the run."""
        self.server.client.request("DELETE", self.path(kind, name))

    def phase(self, kind: str, name: str, *phases: str, seconds: float = 40.0) -> dict[str, Any]:
        """Wait for a phase and return the status."""
        last: dict[str, Any] = {}

        def probe() -> bool:
            last.clear()
            last.update(self.status(kind, name))
            return last.get("phase") in phases

        try:
            eventually(probe, what=f"{kind} {name} {'/'.join(phases)}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last, indent=1)}") from None
        return dict(last)

    # children

    def children(self, kind: str, run: str) -> list[dict[str, Any]]:
        """Objects of a kind (plural, lower case) that carry the run's label."""
        root = {"jobs": "/apis/batch/v1", "statefulsets": "/apis/apps/v1"}.get(kind, "/api/v1")
        path = f"{root}/namespaces/{self.namespace}/{kind}?labelSelector=qednano.dev%2Frun%3D{run}"
        found: list[dict[str, Any]] = self.server.client.request("GET", path)["items"]
        return found

    def pods(self, run: str, role: str = "", attempt: int | None = None) -> list[dict[str, Any]]:
        """Pods of a run that are not going away, by name."""
        found = []
        for pod in self.children("pods", run):
            labels = pod["metadata"]["labels"]
            wanted = role in ("", labels["qednano.dev/role"]) and str(attempt) in (
                "None",
                labels["qednano.dev/attempt"],
            )
            if wanted and not pod["metadata"].get("deletionTimestamp"):
                found.append(pod)
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def wait_pods(self, run: str, role: str, count: int = 1, attempt: int | None = None) -> list[dict[str, Any]]:
        """Wait until the role has so many pods."""
        return eventually(
            lambda: found if len(found := self.pods(run, role, attempt)) == count else None,
            what=f"{count} pods of {role} of {run}, attempt {attempt}",
        )

    def events(self, run: str) -> list[tuple[str, str]]:
        """(reason, message) of the run's events."""
        items = self.server.client.request("GET", f"/api/v1/namespaces/{self.namespace}/events?limit=500")["items"]
        mine = [item for item in items if item["involvedObject"]["name"] == run]
        return [(item["reason"], item["message"]) for item in mine]

    # the kubelet's part

    def _pod(self, pod: dict[str, Any], subresource: str = "") -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
        return f"{path}/{subresource}" if subresource else path

    def set_pod(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        """Write a pod's status."""
        self.server.client.request("PATCH", self._pod(pod, "status"), {"status": status}, MERGE)

    def bind(self, pod: dict[str, Any], node: str = NODE) -> None:
        """Give the pod a node."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"], "namespace": self.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            self.server.client.request("POST", self._pod(pod, "binding"), body)
        except Refused as refused:
            if refused.status != 409:  # bound already
                raise

    def start(self, *pods: dict[str, Any], ip: str = "127.9.9.9", ready: bool = True, node: str = NODE) -> None:
        """The pods run."""
        for pod in pods:
            self.bind(pod, node)
            conditions = [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if ready else "False"},
            ]
            container = {
                "name": pod["spec"]["containers"][0]["name"],
                "image": "x",
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }
            status = {"phase": "Running", "podIP": ip, "conditions": conditions, "containerStatuses": [container]}
            self.set_pod(pod, status)

    def end(self, pod: dict[str, Any], code: int, words: dict[str, Any] | str = "", reason: str = "") -> None:
        """The pod's process ends with an exit code and a termination message."""
        self.bind(pod)
        terminated = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": words if isinstance(words, str) else json.dumps(words),
            "startedAt": "2026-01-01T00:00:00Z",
            "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        container = {
            "name": pod["spec"]["containers"][0]["name"],
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": terminated},
        }
        phase = "Succeeded" if code == 0 else "Failed"
        self.set_pod(pod, {"phase": phase, "conditions": [], "containerStatuses": [container]})

    def reap(self, run: str) -> None:
        """Finish the deletion of the run's pods that are going away, as a kubelet does once they have ended."""
        for pod in self.children("pods", run):
            if pod["metadata"].get("deletionTimestamp"):
                try:
                    self.server.client.request("DELETE", self._pod(pod), {"gracePeriodSeconds": 0})
                except Refused as refused:
                    if refused.status != 404:
                        raise

    def reaped(self, run: str, probe: Callable[[], T], *, what: str) -> T:
        """The first true value of ``probe``, while the run's pods that are going away go, as with a kubelet."""

        def reap_and_look() -> T:
            self.reap(run)
            return probe()

        return eventually(reap_and_look, what=what)


def succeed(metrics: dict[str, str] | None = None, uri: str = "/qed/x/artifact") -> dict[str, Any]:
    """Last words of a job that did its work."""
    return {
        "outcome": "Succeeded",
        "reason": "Completed",
        "message": "10 steps done",
        "metrics": metrics or {},
        "artifact": {"uri": uri, "digest": "sha256:" + "0" * 64},
    }


def fail(reason: str, message: str) -> dict[str, Any]:
    """Last words of a job that failed."""
    return {"outcome": "Failed", "reason": reason, "message": message, "metrics": {}, "artifact": None}
