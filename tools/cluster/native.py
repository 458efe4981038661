"""The native cluster: a control plane and one node on this host, from nothing to ready and back."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import binaries, images, network, volumes
from tools.cluster.control_plane import ControlPlane
from tools.cluster.errors import ClusterError
from tools.cluster.node import PAUSE_IMAGE, Node
from tools.cluster.paths import Cache
from tools.cluster.steps import say, step, wait_until


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
        return self._plane.kubeconfig

    def up(self) -> None:
        """Builds what is missing and starts what isn't running; returns when pods can run."""
        if os.geteuid() != 0:
            raise ClusterError(
                "a node with pods needs root; run: sudo -E python -m tools.cluster up "
                "(or use kind, or --kubeconfig with a cluster you have)"
            )
        binaries.build(self.cache)
        node = self._node
        builder = images.builder(self.cache)
        self.folder.mkdir(parents=True, exist_ok=True)
        with step("starting containerd"):
            node.start_containerd()
        with step("making the network"):
            network.set_up(self.folder)
        with step("starting the control plane"):
            node.plane.start(controllers=True)
        builder.pause()
        images.load(node, builder, PAUSE_IMAGE)
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
        """Builds images, and gives them to containerd if the cluster is up."""
        builder = images.builder(self.cache)
        for name in names:
            builder.build(name)
            if self._node.ctr_succeeds("version"):
                images.load(self._node, builder, images.reference(name))
        if not self._node.ctr_succeeds("version"):
            say("the images are built, and not loaded: the native cluster is not up")

    def load_base(self) -> str:
        """Gives containerd the image all others are built on, and returns its name."""
        node, builder = self._require_containerd(), images.builder(self.cache)
        builder.base()
        images.load(node, builder, images.BASE_IMAGE)
        return images.BASE_IMAGE

    def claim(self, namespace: str) -> Path:
        """Makes the volume `qednano` claimable in a namespace; returns its folder on this host."""
        return volumes.claim(self._plane.client(), self.folder / "volume", namespace)

    def down(self, *, purge: bool) -> None:
        """Ends every process and forgets the cluster; images and the volume's data stay unless `purge`."""
        if not self.folder.exists():
            return
        with step("stopping the cluster"):
            self._node.stop()
            self._plane.stop()
        kept = set() if purge else {"containerd", "volume"}
        for entry in self.folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if purge:
            self.folder.rmdir()
            shutil.rmtree(self.cache.images, ignore_errors=True)

    def processes(self) -> dict[str, int | None]:
        """Process ids by name."""
        return {**self._plane.pids(), **{daemon.name: daemon.pid() for daemon in self._node.daemons()}}

    def ready(self) -> bool:
        """Whether a pod could be scheduled now."""
        return self.kubeconfig.exists() and all(self.processes().values()) and self._node.ready()

    @property
    def _plane(self) -> ControlPlane:
        return ControlPlane(self.folder, binaries.from_cache(self.cache), address=network.GATEWAY, pods_run=True)

    @property
    def _node(self) -> Node:
        return Node(self.folder, self._plane, self.cache.kubernetes / "bin")

    def _require_containerd(self) -> Node:
        if not self._node.ctr_succeeds("version"):
            raise ClusterError("the native cluster is not up: run python -m tools.cluster up")
        return self._node
