"""The one node: containerd, kubelet, kube-proxy, scheduler and cluster DNS on this host, as root.

containerd and kubelet live in a mount namespace of their own: their many mounts, and the folders they insist on
having under /var, are never seen by the host and vanish with the last process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster import debian, dns, network
from tools.cluster.control_plane import ControlPlane, free_port
from tools.cluster.daemons import Daemon
from tools.cluster.errors import ClusterError
from tools.cluster.paths import REPOSITORY
from tools.cluster.steps import run, wait_until

NAME = "node1"
PAUSE_IMAGE = "localhost/qednano-pause:1"
PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "buildah",
    "iptables",
    "conntrack",
    "socat",
    "iproute2",
    "procps",
    "gcc",
    "libc6-dev",
)
_PRIVATE = ("/var/log/pods", "/var/log/containers", "/var/lib/kubelet", "/var/lib/cni", "/run/containerd")


@dataclass(frozen=True)
class Node:
    """The node's processes and folders; `folder` is the cluster's."""

    folder: Path
    plane: ControlPlane
    binaries: Path

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.folder / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Where images stay from one `up` to the next."""
        return self.folder / "containerd"

    def daemons(self) -> list[Daemon]:
        """All of them, in the order of their start."""
        return [
            self._daemon(name)
            for name in ("node-mounts", "containerd", "kube-scheduler", "cluster-dns", "kube-proxy", "kubelet")
        ]

    def start_containerd(self) -> None:
        """Starts containerd in the node's mount namespace; it takes images from then on."""
        debian.require(PACKAGES, purpose="the node")
        self._start_mounts()
        containerd = self._daemon("containerd")
        config = self.folder / "containerd.toml"
        config.write_text(self._containerd_config())
        network.write_cni(self.folder / "cni", self.folder / "cni-addresses")
        containerd.start([*self._inside(), "containerd", "--config", config])
        wait_until(lambda: self.ctr_succeeds("version"), what="containerd", seconds=60, alive=containerd.check_alive)

    def start(self) -> None:
        """Starts the rest and returns when the node is Ready and cluster DNS answers."""
        kubelet_config = self.folder / "kubelet.json"
        kubelet_config.write_text(json.dumps(self._kubelet_config(), indent=1))
        self._daemon("kube-scheduler").start(
            [
                self.binaries / "kube-scheduler",
                f"--kubeconfig={self.plane.kubeconfig}",
                "--leader-elect=false",
                "--port=0",
                f"--secure-port={free_port()}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={self.folder / 'run'}",
            ]
        )
        self._daemon("cluster-dns").start(
            [sys.executable, "-m", "tools.cluster.dns", self.plane.kubeconfig, network.GATEWAY], cwd=REPOSITORY
        )
        self._daemon("kube-proxy").start(
            [
                self.binaries / "kube-proxy",
                f"--kubeconfig={self.plane.kubeconfig_of('kube-proxy')}",
                "--proxy-mode=iptables",
                f"--cluster-cidr={network.POD_RANGE}",
                f"--hostname-override={NAME}",
                "--healthz-bind-address=",
                f"--metrics-bind-address=127.0.0.1:{free_port()}",
                # conntrack's limits are the host's, not ours to change
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
            ]
        )
        kubelet = self._daemon("kubelet")
        kubelet.start(
            [
                *self._inside(),
                self.binaries / "kubelet",
                f"--config={kubelet_config}",
                f"--kubeconfig={self.plane.kubeconfig_of('kubelet')}",
                f"--root-dir={self.folder / 'kubelet'}",
                f"--hostname-override={NAME}",
                f"--node-ip={network.GATEWAY}",
                "--container-runtime=remote",
                f"--container-runtime-endpoint=unix://{self.socket}",
                f"--pod-infra-container-image={PAUSE_IMAGE}",
                f"--cert-dir={self.folder / 'run'}",
            ]
        )
        wait_until(self.ready, what=f"the node {NAME}", seconds=90, alive=kubelet.check_alive)
        wait_until(
            lambda: network.has_chain("nat", "KUBE-SERVICES"),
            what="kube-proxy",
            seconds=30,
            alive=self._daemon("kube-proxy").check_alive,
        )
        wait_until(self._resolves, what="cluster DNS", seconds=30, alive=self._daemon("cluster-dns").check_alive)

    def ready(self) -> bool:
        """Whether the API server has heard from a ready kubelet within the last minute."""
        with contextlib.suppress(ClusterError, OSError):
            conditions = self.plane.client().request("GET", f"/api/v1/nodes/{NAME}")["status"]["conditions"]
            return self._daemon("kubelet").pid() is not None and any(
                condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
            )
        return False

    def stop(self) -> None:
        """Ends every pod and process; afterwards the host has none of our mounts, cgroups or interfaces."""
        for name in ("kubelet", "kube-proxy", "cluster-dns", "kube-scheduler"):
            self._daemon(name).stop()
        if self._daemon("containerd").pid() is not None:
            self._remove_containers()
            self._daemon("containerd").stop()
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not list(self._shims()), what="the end of containerd's shims", seconds=10)
        self._daemon("node-mounts").stop()
        for folder in _PRIVATE:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()  # only a mount point of ours is empty
        _remove_cgroups()
        network.tear_down(self.folder, self.binaries / "kube-proxy")

    def ctr(self, *args: str | Path, what: str) -> str:
        """Runs containerd's own client in Kubernetes' namespace of images."""
        return run(["ctr", "--address", self.socket, "-n", "k8s.io", *args], what=what)

    def ctr_succeeds(self, *args: str) -> bool:
        """Whether containerd's client is there and ends well."""
        command = ["ctr", "--address", str(self.socket), "-n", "k8s.io", *args]
        return shutil.which("ctr") is not None and subprocess.run(command, capture_output=True).returncode == 0

    def _daemon(self, name: str) -> Daemon:
        return Daemon(name, self.folder / "run")

    def _start_mounts(self) -> None:
        """A process that does nothing but hold the mount namespace."""
        holder = self._daemon("node-mounts")
        if holder.pid() is not None:
            return
        binds = []
        for name in _PRIVATE:
            own = self.folder / "private" / name.strip("/").replace("/", "-")
            own.mkdir(parents=True, exist_ok=True)
            Path(name).mkdir(parents=True, exist_ok=True)
            binds.append(f"mount --bind '{own}' {name}")
        # Mounts of the host still reach the node (slave), the node's never reach the host; kubelet needs `shared`
        # among its own.
        script = " && ".join(
            [*binds, "mount --make-rshared /", f"touch '{self.folder / 'mounted'}'", "exec sleep infinity"]
        )
        (self.folder / "mounted").unlink(missing_ok=True)
        holder.start(["unshare", "--mount", "--propagation", "slave", "sh", "-c", script])
        wait_until(
            (self.folder / "mounted").exists, what="the node's mount namespace", seconds=10, alive=holder.check_alive
        )

    def _inside(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._daemon('node-mounts').pid()}/ns/mnt", "--"]

    def _containerd_config(self) -> str:
        # restrict_oom_score_adj: without it no sandbox starts where the host may not lower oom_score_adj.
        return f"""version = 2
root = "{self.containerd_root}"
state = "{self.folder / "containerd-state"}"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.folder / "cni"}"
"""

    def _kubelet_config(self) -> dict[str, Any]:
        return {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": network.GATEWAY,
            "port": free_port(),
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self.plane.certificates / "ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [network.GATEWAY],
            "clusterDomain": dns.DOMAIN,
            "makeIPTablesUtilChains": False,
            "featureGates": {"DevicePlugins": False, "KubeletPodResources": False},
            # Images come from this machine's builds: nothing could bring a collected one back.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "maxPods": 110,
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "1m",
            "fileCheckFrequency": "60s",
            "syncFrequency": "10s",
        }

    def _resolves(self) -> bool:
        import socket

        query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\12kubernetes\7default\3svc\7cluster\5local\0" + b"\0\1\0\1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            probe.sendto(query, (network.GATEWAY, 53))
            return probe.recv(512)[7] > 0
        return False

    def _remove_containers(self) -> None:
        """Kills every container's process and deletes the containers; containerd itself cleans up after each."""

        def gone() -> bool:
            for task in self.ctr("tasks", "list", "-q", what="listing tasks").split():
                self.ctr_succeeds("tasks", "kill", "--signal", "SIGKILL", task)
            names = self.ctr("containers", "list", "-q", what="listing containers").split()
            return not names or self.ctr_succeeds("containers", "delete", *names)

        wait_until(gone, what="the end of the pods", seconds=30)

    def _shims(self) -> Iterator[int]:
        """containerd's shims outlive it; ours are those that were given our socket."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if b"shim" in words[0] and str(self.socket).encode() in words and state != "Z":
                    yield int(folder.name)


def _remove_cgroups() -> None:
    """kubelet and the container runtime leave empty cgroups behind; only empty ones can be removed."""
    roots = [
        *Path("/sys/fs/cgroup").glob("kubepods"),
        *Path("/sys/fs/cgroup").glob("*/kubepods"),
        *Path("/sys/fs/cgroup").glob("k8s.io"),
        *Path("/sys/fs/cgroup").glob("*/k8s.io"),
    ]
    for root in roots:
        for folder, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
