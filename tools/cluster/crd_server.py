"""Builds the API server of custom resources of Kubernetes 1.36 from Debian unstable's Go libraries.

Kubernetes 1.20 drops CEL rules silently; this server, put behind it by the aggregation layer, keeps and runs them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tools.cluster import debian
from tools.cluster.errors import ClusterError
from tools.cluster.kubernetes_source import exclusive
from tools.cluster.paths import Cache
from tools.cluster.steps import run, step

NAME = "apiextensions-apiserver"
_SOURCE = "/usr/share/gocode/src/k8s.io/apiextensions-apiserver"
_COMPILE = (
    f"cd {_SOURCE} && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=/gocache CGO_ENABLED=0 "
    'GOFLAGS=-p="$(nproc)" nice go build -trimpath -ldflags "-s -w" -o /server .'
)


def binary(cache: Cache) -> Path:
    """Where the built server lies; it may not exist yet."""
    return cache.crd_server / "bin" / NAME


def build(cache: Cache) -> Path:
    """Builds the server unless it is there, and returns its path."""
    target = binary(cache)
    if target.exists():
        return target
    if os.geteuid() != 0:
        raise ClusterError(
            "the server of custom resources is built in a Debian unstable chroot, which only root can "
            "enter; run: sudo -E python -m tools.cluster build (tests also take an envtest bundle that "
            "KUBEBUILDER_ASSETS names)"
        )
    with exclusive(cache.crd_server):
        if not target.exists():
            _build(cache.crd_server, target)
    return target


def _build(folder: Path, target: Path) -> None:
    root, log = folder / "root", folder / "build.log"
    debian.bootstrap("sid", root, ["ca-certificates"], log=log)
    apt: list[str | Path] = [
        "chroot",
        root,
        "apt-get",
        *debian.UNDATED,
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "DPkg::Options::=--force-unsafe-io",
    ]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    # A private mount namespace: /proc and /dev of the chroot vanish with the command, however it ends.
    inside: list[str | Path] = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec "$@"',
        root,
    ]
    with step("installing Go and the Kubernetes 1.36 libraries in a Debian unstable chroot"):
        run([*inside, *apt, "update"], what="apt-get update in the chroot", log=log, env=env)
        run(
            [
                *inside,
                *apt,
                "install",
                "-y",
                "--no-install-recommends",
                "golang-any",
                "golang-k8s-apiextensions-apiserver-dev",
            ],
            what="installing Go in the chroot",
            log=log,
            env=env,
        )
    with step(f"compiling the 1.36 server of custom resources (log: {log})"):
        run([*inside, "chroot", root, "sh", "-c", _COMPILE], what="compiling the 1.36 server", log=log)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / "server", target.with_name(f".{NAME}"))
    target.with_name(f".{NAME}").replace(target)
    shutil.rmtree(root)  # 3 GB of Go, libraries and build cache
