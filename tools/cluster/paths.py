"""Where the cluster tool keeps what it builds and what it runs: everything under one cache folder."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cache:
    """Folders of the cache; none need exist yet."""

    root: Path

    @property
    def kubernetes(self) -> Path:
        return self.root / "kubernetes-1.20"

    @property
    def crd_server(self) -> Path:
        return self.root / "crdserver-1.36"

    @property
    def cluster(self) -> Path:
        """All state of the native cluster."""
        return self.root / "cluster"

    @property
    def images(self) -> Path:
        """buildah's storage, pip's download cache and the exported layers."""
        return self.root / "images"


def cache() -> Cache:
    """The cache under $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Cache(Path(base) / "qednano")


def architecture() -> str:
    """This machine's architecture as Go and Debian call it."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = platform.machine()
    if machine not in names:
        raise ClusterError(f"the local cluster is built for amd64 and arm64 only, and this machine is {machine}")
    return names[machine]
