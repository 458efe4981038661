"""python -m tools.cluster: a real Kubernetes for tests and demos.

The cluster is the one that --kubeconfig or QEDNANO_KUBECONFIG names, else kind where Docker runs, else the native
one-node cluster built from Debian's packages.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.cluster import binaries, images, kind
from tools.cluster.errors import ClusterError
from tools.cluster.existing import ExistingCluster
from tools.cluster.kind import KindCluster
from tools.cluster.native import NativeCluster
from tools.cluster.paths import cache
from tools.cluster.steps import say

Cluster = ExistingCluster | KindCluster | NativeCluster


def choose(kubeconfig: str | None, native: bool) -> Cluster:
    """The cluster these settings mean."""
    if native:
        return NativeCluster(cache())
    named = kubeconfig or os.environ.get("QEDNANO_KUBECONFIG")
    if named:
        return ExistingCluster(Path(named).expanduser())
    return KindCluster(cache()) if kind.usable() else NativeCluster(cache())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tools.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--kubeconfig", help="use this cluster (also: QEDNANO_KUBECONFIG)")
    top.add_argument("--native", action="store_true", help="the native cluster even where kind could run")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build and install the native cluster's programs, start nothing").add_argument(
        "--control-plane", action="store_true", help="only what tests/kube needs"
    )
    commands.add_parser("up", help="start the cluster; does nothing when it is up").add_argument(
        "--images", action="store_true", help="build and load the project's images too"
    )
    commands.add_parser("down", help="stop the cluster and forget it; keeps images and the volume's data").add_argument(
        "--purge", action="store_true", help="remove images and the volume's data as well"
    )
    commands.add_parser("status", help="say what runs; exit status 1 unless the cluster is ready")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    load = commands.add_parser("images", help="build the project's images and load them into the cluster")
    load.add_argument("names", nargs="*", help=f"some of {', '.join(images.NAMES)}; all by default")
    load.add_argument("--build-only", action="store_true", help="build with buildah, load nothing")
    load.add_argument("--variant", choices=("cpu", "cuda"), default="cpu", help="cuda is built only: no GPU is here")
    kubectl = commands.add_parser("kubectl", help="run kubectl as the administrator, also where none is installed")
    kubectl.add_argument("words", nargs=argparse.REMAINDER, metavar="...")
    commands.add_parser("volume", help="make the shared volume's claim in a namespace").add_argument("namespace")
    return top


def status(cluster: Cluster) -> int:
    """Prints what runs; 0 when the cluster is ready."""
    ready = cluster.ready()
    if isinstance(cluster, NativeCluster):
        for name, pid in cluster.processes().items():
            print(f"{name:24} {'pid ' + str(pid) if pid else 'not running'}")
    print(f"{type(cluster).__name__}: {'ready' if ready else 'not ready'} ({cluster.kubeconfig})")
    return 0 if ready else 1


def act(arguments: argparse.Namespace) -> int:
    """Does what was asked; returns the exit status. Raises ClusterError."""
    if arguments.command == "build":
        if arguments.control_plane and binaries.from_assets() is not None:
            say(f"nothing to build: KUBEBUILDER_ASSETS names {os.environ['KUBEBUILDER_ASSETS']}")
        else:
            binaries.build(cache(), node=not arguments.control_plane)
        return 0
    if arguments.command == "images" and (arguments.build_only or arguments.variant != "cpu"):
        for name in arguments.names or images.NAMES:
            images.builder(cache()).build(name, arguments.variant)
        return 0
    cluster = choose(arguments.kubeconfig, arguments.native)
    if arguments.command == "status":
        return status(cluster)
    if arguments.command == "kubeconfig":
        print(cluster.kubeconfig)
    elif arguments.command == "kubectl":
        program = binaries.from_cache(cache()).kubectl
        if not program.exists():
            raise ClusterError("kubectl is neither on PATH nor built: run python -m tools.cluster build")
        os.execv(program, [str(program), "--kubeconfig", str(cluster.kubeconfig), *arguments.words])
    elif arguments.command == "up":
        cluster.up()
        if arguments.images:
            cluster.load(images.NAMES)
        say(f"ready; export KUBECONFIG={cluster.kubeconfig}")
    elif arguments.command == "images":
        cluster.load(tuple(arguments.names) or images.NAMES)
    elif arguments.command == "volume":
        where = cluster.claim(arguments.namespace)
        say(f"claim qednano in {arguments.namespace} is bound" + (f"; its folder is {where}" if where else ""))
    elif isinstance(cluster, NativeCluster):
        cluster.down(purge=arguments.purge)
        say("the cluster is down")
    else:
        cluster.down()
    return 0


def main() -> int:
    """Runs the command; a ClusterError becomes one sentence on standard error."""
    try:
        return act(parser().parse_args())
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; what was finished is kept, run the command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
