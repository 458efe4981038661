"""Which programs make up a control plane: KUBEBUILDER_ASSETS first, then what this tool built."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import crd_server, debian, kubernetes_source
from tools.cluster.errors import ClusterError
from tools.cluster.paths import Cache
from tools.cluster.steps import run

_CEL_SINCE = (1, 29)  # CEL rules of custom resources are on by default from 1.25 and general from 1.29


@dataclass(frozen=True)
class Binaries:
    """Paths of a control plane's programs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    controller_manager: Path | None
    crd_server: Path | None
    version: tuple[int, int]

    @property
    def usable(self) -> bool:
        """Whether a control plane can be started."""
        return self.etcd.exists() and self.kube_apiserver.exists()


def from_assets() -> Binaries | None:
    """An envtest bundle's programs when KUBEBUILDER_ASSETS is set, and our own CRD server only if it is an old one."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        return None
    folder = Path(named)
    for name in ("etcd", "kube-apiserver", "kubectl"):
        if not (folder / name).exists():
            raise ClusterError(
                f"KUBEBUILDER_ASSETS names {folder}, which holds no {name}: unset it or name an envtest bundle"
            )
    said = run([folder / "kube-apiserver", "--version"], what="asking kube-apiserver for its version")
    found = re.search(r"v(\d+)\.(\d+)", said)
    if found is None:
        raise ClusterError(f"{folder / 'kube-apiserver'} does not tell its version: {said.strip()}")
    version = (int(found[1]), int(found[2]))
    if version < _CEL_SINCE:
        raise ClusterError(
            f"the bundle in KUBEBUILDER_ASSETS is of Kubernetes {version[0]}.{version[1]}, and custom "
            "resources with CEL rules need 1.29 or newer"
        )
    manager = folder / "kube-controller-manager"
    return Binaries(
        etcd=folder / "etcd",
        kube_apiserver=folder / "kube-apiserver",
        kubectl=folder / "kubectl",
        controller_manager=manager if manager.exists() else None,
        crd_server=None,
        version=version,
    )


def from_cache(cache: Cache) -> Binaries:
    """Where `build` puts its programs; see `usable` for whether it has."""
    built = cache.kubernetes / "bin"
    manager, server, kubectl = built / "kube-controller-manager", crd_server.binary(cache), built / "kubectl"
    return Binaries(
        etcd=Path(shutil.which("etcd") or "/usr/bin/etcd"),
        kube_apiserver=built / "kube-apiserver",
        kubectl=kubectl if kubectl.exists() else Path(shutil.which("kubectl") or kubectl),
        controller_manager=manager if manager.exists() else None,
        crd_server=server if server.exists() else None,
        version=(1, 20),
    )


def build(cache: Cache, *, node: bool = True) -> Binaries:
    """Builds and installs whatever is missing of the control plane, and of the node's programs when asked."""
    debian.require(["etcd-server", "openssl", "util-linux"], purpose="the control plane")
    names = kubernetes_source.CONTROL_PLANE + (kubernetes_source.NODE if node else ())
    kubernetes_source.build(cache, names)
    crd_server.build(cache)
    return from_cache(cache)
