"""The native cluster: a control plane and one node on this host, from nothing to ready and back."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import binaries, images, kubernetes_source, network, volumes
from tools.cluster.control_plane import ControlPlane
from tools.cluster.errors import ClusterError
from tools.cluster.node import Node
from tools.cluster.paths import Cache
from tools.cluster.steps import step, wait_until


@dataclass(frozen=True)
class NativeCluster:
    """One cluster per user's cache folder."""

    cache: Cache

    @property
    def folder(self) -> Path:
        return self.cache.cluster

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; it exists while the cluster is up."""
        return self._plane(None).kubeconfig

    def up(self) -> None:
        """Builds what is missing and starts what isn't running; returns when pods can run."""
        if os.geteuid() != 0:
            raise ClusterError(
                "a node with pods needs root; run: sudo -E python -m tools.cluster up "
                "(or use kind, or --kubeconfig with a cluster you have)"
            )
        found = binaries.build(self.cache)
        node = self._node(found)
        builder = images.builder(self.cache)
        self.folder.mkdir(parents=True, exist_ok=True)
        with step("starting containerd"):
            node.start_containerd()
        with step("making the network"):
            network.set_up(self.folder)
        with step("starting the control plane"):
            node.plane.start(controllers=True)
        builder.pause()
        images.load(node, builder, images.PAUSE_IMAGE)
        with step("starting the node"):
            node.start()
        volumes.claim(node.plane.client(), self.folder / "volume", "default")
        client = node.plane.client()
        wait_until(
            lambda: client.ready("/api/v1/namespaces/default/serviceaccounts/default"),
            what="the default service account",
            seconds=30,
        )

    def load(self, names: tuple[str, ...]) -> None:
        """Builds images and gives them to containerd, which must be running."""
        node = self._node(self._found())
        if not node.ctr_succeeds("version"):
            raise ClusterError("the native cluster is not up: run python -m tools.cluster up")
        builder = images.builder(self.cache)
        for name in names:
            builder.build(name)
            images.load(node, builder, images.reference(name))

    def load_base(self) -> str:
        """Gives containerd the image all others are built on, and returns its name."""
        node, builder = self._node(self._found()), images.builder(self.cache)
        builder.base()
        images.load(node, builder, images.BASE_IMAGE)
        return images.BASE_IMAGE

    def claim(self, namespace: str) -> Path:
        """Makes the volume `qednano` claimable in a namespace; returns its folder on this host."""
        return volumes.claim(self._plane(None).client(), self.folder / "volume", namespace)

    def down(self, *, purge: bool) -> None:
        """Ends every process and forgets the cluster; images and the volume's data stay unless `purge`."""
        if not self.folder.exists():
            return
        found = self._found_or_none()
        plane = self._plane(found)
        node = Node(self.folder, plane, self.cache.kubernetes / "bin")
        with step("stopping the cluster"):
            node.stop()
            plane.stop()
        kept = set() if purge else {"containerd", "volume"}
        for entry in self.folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if purge:
            self.folder.rmdir()
            shutil.rmtree(self.cache.images, ignore_errors=True)

    def processes(self) -> dict[str, int | None]:
        """Process ids by name."""
        plane = self._plane(self._found_or_none())
        node = Node(self.folder, plane, self.cache.kubernetes / "bin")
        return {**plane.pids(), **{daemon.name: daemon.pid() for daemon in node.daemons()}}

    def ready(self) -> bool:
        """Whether a pod could be scheduled now."""
        if not self.kubeconfig.exists():
            return False
        node = Node(self.folder, self._plane(self._found_or_none()), self.cache.kubernetes / "bin")
        return all(self.processes().values()) and node.ready()

    def _found_or_none(self) -> binaries.Binaries | None:
        return binaries.from_cache(self.cache)

    def _found(self) -> binaries.Binaries:
        found = self._found_or_none()
        if found is None or kubernetes_source.missing(self.cache, kubernetes_source.NODE):
            raise ClusterError("the native cluster is not built: run python -m tools.cluster up")
        return found

    def _plane(self, found: binaries.Binaries | None) -> ControlPlane:
        return ControlPlane(self.folder, found, address=network.GATEWAY, pods_run=True)

    def _node(self, found: binaries.Binaries) -> Node:
        return Node(self.folder, self._plane(found), self.cache.kubernetes / "bin")
