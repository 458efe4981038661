"""What runs need of any cluster: pods, names of peers, services, and storage they share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kube.apiserver import Kubectl
from tools.cluster.steps import wait_until

pytestmark = pytest.mark.e2e

SERVER = """
import http.server, pathlib
pathlib.Path("/runs/NAMESPACE-greeting").write_text("hello from the volume")
http.server.ThreadingHTTPServer(
    ("", 8080), lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory="/runs")).serve_forever()
"""
CLIENT = """
import socket, time, urllib.request
name = "one.peers.NAMESPACE.svc.cluster.local"
until = time.monotonic() + 60
while True:
    try:
        address = socket.gethostbyname(name)
        assert socket.gethostbyname("one.peers") == address
        through_service = urllib.request.urlopen("http://front/NAMESPACE-greeting", timeout=3).read().decode()
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.2)
print(address, through_service, open("/runs/NAMESPACE-greeting").read(), sep="|")
"""


def pod(name: str, namespace: str, image: str, program: str) -> dict[str, Any]:
    """A pod under the restricted security standard that runs a Python program with the volume at /runs."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "hostname": name,
            "subdomain": "peers",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532},
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", program.replace("NAMESPACE", namespace)],
                    "volumeMounts": [{"name": "runs", "mountPath": "/runs"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": "qednano"}}],
        },
    }


def service(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A Service of pod `one` on port 80."""
    ports = [{"port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "one"}, "ports": ports, **spec},
    }


def test_pods_find_peers_reach_services_and_share_a_volume(kube: Kubectl, space: str, python_image: str) -> None:
    kube.apply(
        service("peers", space, {"clusterIP": "None", "publishNotReadyAddresses": True}),
        service("front", space, {}),
        pod("one", space, python_image, SERVER),
        pod("two", space, python_image, CLIENT),
    )

    def finished() -> bool:
        return kube.get("-n", space, "pod", "two")["status"]["phase"] in ("Succeeded", "Failed")

    wait_until(finished, what="the client pod", seconds=120)
    said = kube.kubectl("-n", space, "logs", "two").strip().splitlines()
    address = kube.get("-n", space, "pod", "one")["status"]["podIP"]
    assert said[-1] == f"{address}|hello from the volume|hello from the volume"
