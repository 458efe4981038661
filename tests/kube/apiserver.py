"""pytest plugin: a real Kubernetes API server, started once per session, without kubelet or containers.

Fixtures: `apiserver` (no controllers: a test plays their part), `apiserver_with_controllers` (owner references are
collected, Jobs make pods, namespaces go), `namespace` and `namespace_with_controllers` (fresh ones per test).
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tools.cluster import binaries
from tools.cluster.api_client import ApiClient, Refused
from tools.cluster.control_plane import ControlPlane
from tools.cluster.paths import cache
from tools.cluster.steps import wait_until


class KubectlFailed(AssertionError):
    """kubectl ended with an error; the text is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """A cluster as its administrator sees it through kubectl."""

    kubeconfig: Path
    program: Path

    def kubectl(self, *args: str | Path, stdin: str | None = None) -> str:
        """Runs kubectl and returns what it printed. Raises KubectlFailed with its complaint."""
        done = subprocess.run(
            [self.program, "--kubeconfig", self.kubeconfig, *args], capture_output=True, text=True, input=stdin
        )
        if done.returncode != 0:
            raise KubectlFailed(done.stderr.strip())
        return done.stdout

    def get(self, *args: str) -> Any:
        """The object or list that `kubectl get ARGS -o json` prints."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def exists(self, *args: str) -> bool:
        """Whether `kubectl get ARGS` finds something."""
        return bool(self.kubectl("get", *args, "--ignore-not-found", "-o", "name").strip())

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies objects as `kubectl apply` does."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def new_namespace(self) -> str:
        """Makes a namespace with a name of its own."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.kubectl("create", "namespace", name)
        return name


@dataclass(frozen=True)
class ApiServer(Kubectl):
    """A running control plane of the tests' own."""

    plane: ControlPlane

    @property
    def client(self) -> ApiClient:
        """JSON over HTTPS as the administrator."""
        return self.plane.client()

    @property
    def autoscaling(self) -> str:
        """The autoscaling API of this server: v2 from Kubernetes 1.23, with the same fields as v2beta2 before."""
        found = self.client.request("GET", "/apis/autoscaling")["versions"]
        served = {item["groupVersion"] for item in found}
        return "autoscaling/v2" if "autoscaling/v2" in served else "autoscaling/v2beta2"

    def install_crds(self, *crds: dict[str, Any]) -> None:
        """Applies CRDs and returns when every version of theirs can be listed."""
        for crd in crds:
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
            self.client.apply(path, crd)
        for crd in crds:
            group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
            for version in crd["spec"]["versions"]:
                if version["served"]:
                    path = f"/apis/{group}/{version['name']}/{plural}"
                    wait_until(partial(self.client.ready, path), what=f"the resource {path}", seconds=60)


def start(folder: Path, *, controllers: bool, audited: bool = False) -> ApiServer:
    """A control plane of one's own, to be stopped with `.plane.stop()`; the test is skipped where there is none."""
    found = binaries.from_assets() or binaries.from_cache(cache())
    if not found.usable or (controllers and found.controller_manager is None):
        reason = "no API server on this machine: set KUBEBUILDER_ASSETS or run `python -m tools.cluster build`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    plane = ControlPlane(folder, found, ephemeral=True, audited=audited)
    try:
        plane.start(controllers=controllers)
    except BaseException:
        plane.stop()
        raise
    return ApiServer(plane.kubeconfig, found.kubectl, plane)


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A control plane without controllers, one for the session."""
    server = start(tmp_path_factory.mktemp("apiserver"), controllers=False)
    yield server
    server.plane.stop()


@pytest.fixture(scope="session")
def apiserver_with_controllers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A control plane with kube-controller-manager, one for the session."""
    server = start(tmp_path_factory.mktemp("apiserver-controllers"), controllers=True)
    yield server
    server.plane.stop()


@pytest.fixture
def namespace(apiserver: ApiServer) -> str:
    """A fresh namespace on `apiserver`; nothing there would delete it, so it goes with the server."""
    return apiserver.new_namespace()


@pytest.fixture
def namespace_with_controllers(apiserver_with_controllers: ApiServer) -> Iterator[str]:
    """A fresh namespace on `apiserver_with_controllers`, deleted after the test."""
    name = apiserver_with_controllers.new_namespace()
    yield name
    try:
        apiserver_with_controllers.client.request("DELETE", f"/api/v1/namespaces/{name}")
    except Refused as refused:
        if refused.status not in (404, 409):
            raise
