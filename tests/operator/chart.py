"""The chart as helm renders it, and an operator that runs on what the chart gives it."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.kube.apiserver import ApiServer
from tools.cluster.paths import REPOSITORY
from tools.helm import helm

CHART = REPOSITORY / "charts/qednano"
SYSTEM = "qed-system"


def run_helm(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm and hand back what it said."""
    return subprocess.run([helm(), *args], capture_output=True, text=True)


@functools.cache
def render(*args: str) -> tuple[dict[str, Any], ...]:
    """The chart's objects with the given flags of ``helm template``."""
    done = run_helm("template", "qed", CHART, "--namespace", SYSTEM, *args)
    assert done.returncode == 0, done.stderr
    return tuple(item for item in yaml.load_all(done.stdout, yaml.CSafeLoader) if item)  # CRDs are long


def only(objects: tuple[dict[str, Any], ...], *kinds: str) -> list[dict[str, Any]]:
    """The objects of some kinds."""
    return [item for item in objects if item["kind"] in kinds]


def install(server: ApiServer, objects: Iterable[dict[str, Any]], *flags: str) -> str:
    """Apply objects with kubectl; what it said."""
    whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    return server.kubectl("apply", "-f", "-", *flags, stdin=json.dumps(whole))


def kubeconfig_of(server: ApiServer, account: str, target: Path) -> Path:
    """A kubeconfig that is nobody but the service account of the chart's namespace."""
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    token = server.client.request("POST", path, request)["status"]["token"]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": server.client.url,
                    "certificate-authority-data": base64.b64encode(server.client.authority.read_bytes()).decode(),
                },
            }
        ],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    target.write_text(json.dumps(config))
    target.chmod(0o600)
    return target


def operator_flags(objects: tuple[dict[str, Any], ...]) -> tuple[str, ...]:
    """The flags that the chart's Deployment gives to the operator, but for the port."""
    (deployment,) = only(objects, "Deployment")
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return tuple(arg for arg in args if not arg.startswith("--port="))
