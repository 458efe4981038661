"""Builds Kubernetes 1.20 from Debian 12's source package, the last complete one Debian has.

About four minutes for the API server and six for the rest on two cores; once, into the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.cluster import debian
from tools.cluster.paths import Cache, architecture
from tools.cluster.steps import run, say, step

VERSION = "v1.20.2"
CONTROL_PLANE = ("kube-apiserver", "kubectl", "kube-controller-manager")
NODE = ("kube-scheduler", "kubelet", "kube-proxy")
_GO = "1.19"
_PACKAGES = (
    f"golang-{_GO}-go",
    "dpkg-dev",
    "rsync",
    "jq",
    "make",
    "gcc",
    "libc6-dev",
    "patch",
    "xz-utils",
    "ca-certificates",
    "golang-github-modern-go-reflect2-dev",
)
_REFLECT = "github.com/modern-go/reflect2"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a folder's build lock, so that two commands never build into it at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def missing(cache: Cache, names: Sequence[str]) -> list[str]:
    """Those binaries which are not built yet."""
    return [name for name in names if not (cache.kubernetes / "bin" / name).exists()]


def build(cache: Cache, names: Sequence[str] = (*CONTROL_PLANE, *NODE)) -> Path:
    """Builds what is missing of `names` and returns the folder of the binaries."""
    binaries = cache.kubernetes / "bin"
    if not missing(cache, names):
        return binaries
    debian.require(_PACKAGES, purpose="building Kubernetes 1.20")
    with exclusive(cache.kubernetes):
        wanted = missing(cache, names)
        # The API server first: the tests that need nothing else can begin while the rest is built.
        for batch in (
            [name for name in wanted if name == "kube-apiserver"],
            [name for name in wanted if name != "kube-apiserver"],
        ):
            if batch:
                _make(cache.kubernetes / "src", binaries, batch)
        if not missing(cache, (*CONTROL_PLANE, *NODE)):
            shutil.rmtree(cache.kubernetes / "src")  # 3 GB of source and Go's own cache
    return binaries


def _make(workspace: Path, binaries: Path, names: Sequence[str]) -> None:
    """Runs the source's own make (it generates code first, which `go build` alone would not)."""
    tree = _source(workspace)
    log = workspace.parent / "build.log"
    cores = os.cpu_count() or 1
    env = {
        **os.environ,
        "PATH": f"/usr/lib/go-{_GO}/bin:{os.environ['PATH']}",
        "GOPATH": str(tree / ".go"),
        "GOCACHE": str(workspace / "gocache"),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOFLAGS": f"-p={cores}",
        "KUBE_BUILD_PLATFORMS": f"linux/{architecture()}",
        "KUBE_GIT_VERSION_FILE": str(tree / "version.sh"),
    }
    with step(f"compiling {', '.join(names)} {VERSION} (log: {log})"):
        run(
            ["nice", "make", f"-j{cores}", f"WHAT={' '.join('cmd/' + name for name in names)}", "GOLDFLAGS=-s -w"],
            what=f"compiling {', '.join(names)}",
            log=log,
            cwd=tree,
            env=env,
        )
    binaries.mkdir(parents=True, exist_ok=True)
    for name in names:
        draft = binaries / f".{name}"
        shutil.copy2(tree / "_output/bin" / name, draft)
        draft.replace(binaries / name)


def _source(workspace: Path) -> Path:
    """The unpacked, patched source with the GOPATH layout and the version file its make wants."""
    ready = workspace / "ready"
    if not ready.exists():
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        with step("fetching the source of kubernetes from Debian bookworm"):
            tree = debian.fetch_source("kubernetes", "bookworm", workspace)
        # The vendored reflect2 1.0.1 writes through a stray pointer under Go 1.18 and newer, and the programs crash at
        # random while they encode maps; Debian's own copy, 1.0.2, does not.
        shutil.rmtree(tree / "vendor" / _REFLECT)
        shutil.copytree(f"/usr/share/gocode/src/{_REFLECT}", tree / "vendor" / _REFLECT)
        (tree / ".go/src/k8s.io").mkdir(parents=True)
        (tree / ".go/src/k8s.io/kubernetes").symlink_to("../../..")
        major, minor = VERSION[1:].split(".")[:2]
        (tree / "version.sh").write_text(
            f"KUBE_GIT_COMMIT=debian\nKUBE_GIT_TREE_STATE=archive\nKUBE_GIT_VERSION={VERSION}\n"
            f"KUBE_GIT_MAJOR={major}\nKUBE_GIT_MINOR={minor}\n"
        )
        ready.write_text(tree.name)
    return workspace / ready.read_text()
