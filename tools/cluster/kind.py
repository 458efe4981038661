"""A kind cluster, where a Docker engine runs and `kind` is on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import images
from tools.cluster.paths import Cache
from tools.cluster.steps import run, step
from tools.images import CPU_TORCH_INDEX, Order

_NAME = "qednano"
_CLAIM = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: qednano-{namespace}}}
spec:
  capacity: {{storage: 20Gi}}
  accessModes: [ReadWriteMany]
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: /var/qednano, type: DirectoryOrCreate}}
  claimRef: {{apiVersion: v1, kind: PersistentVolumeClaim, name: qednano, namespace: {namespace}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: qednano, namespace: {namespace}}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: qednano-{namespace}
  resources: {{requests: {{storage: 20Gi}}}}
"""


def usable() -> bool:
    """Whether kind is installed and the Docker engine answers."""
    if shutil.which("kind") is None or shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@dataclass(frozen=True)
class KindCluster:
    """A cluster named qednano in the user's Docker."""

    cache: Cache

    @property
    def kubeconfig(self) -> Path:
        return self.cache.root / "kind.kubeconfig"

    def up(self) -> None:
        """Makes the cluster unless it is there, and the volume in namespace default."""
        if not self._exists():
            self.cache.root.mkdir(parents=True, exist_ok=True)
            with step("creating the kind cluster"):
                run(
                    ["kind", "create", "cluster", "--name", _NAME, "--wait", "180s", "--kubeconfig", self.kubeconfig],
                    what="kind create cluster",
                )
        self.claim("default")

    def load(self, names: tuple[str, ...]) -> None:
        """Builds the images with Docker and loads them into the node."""
        torch_index = os.environ.get("TORCH_INDEX", CPU_TORCH_INDEX)
        order = Order("docker", registry=images.REGISTRY, tag=images.TAG, torch_index=torch_index)
        for name in names:
            with step(f"building {images.reference(name)}"):
                run(order.build(name), what=f"building the image {name}")
            with step(f"loading {images.reference(name)} into kind"):
                run(
                    ["kind", "load", "docker-image", "--name", _NAME, images.reference(name)],
                    what=f"loading the image {name}",
                )

    def claim(self, namespace: str) -> None:
        """Makes the volume `qednano` in a namespace, writable by the pods' user."""
        run(
            [
                "docker",
                "exec",
                f"{_NAME}-control-plane",
                "install",
                "-d",
                "-o",
                "65532",
                "-g",
                "65532",
                "-m",
                "775",
                "/var/qednano",
            ],
            what="making the volume's folder",
        )
        run(
            ["kubectl", "--kubeconfig", self.kubeconfig, "apply", "-f", "-"],
            what=f"making the volume in {namespace}",
            stdin=_CLAIM.format(namespace=namespace),
        )

    def down(self) -> None:
        """Deletes the cluster and what was in it."""
        if self._exists():
            run(
                ["kind", "delete", "cluster", "--name", _NAME, "--kubeconfig", self.kubeconfig],
                what="kind delete cluster",
            )
        self.kubeconfig.unlink(missing_ok=True)

    def ready(self) -> bool:
        """Whether the cluster is there and answers."""
        return (
            self._exists()
            and self.kubeconfig.exists()
            and subprocess.run(
                ["kubectl", "--kubeconfig", str(self.kubeconfig), "get", "--raw", "/readyz"], capture_output=True
            ).returncode
            == 0
        )

    def _exists(self) -> bool:
        return _NAME in run(["kind", "get", "clusters"], what="kind get clusters").split()
