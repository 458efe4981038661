"""What the cluster tool takes from Debian: packages on this host, and small root file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.cluster.errors import ClusterError
from tools.cluster.steps import run, step

MIRROR = os.environ.get("QEDNANO_DEBIAN_MIRROR", "http://deb.debian.org/debian")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Another apt may be at work; and a stored mirror's index may look expired by this machine's clock.
_APT = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3"]
UNDATED = ["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Check-Date=false"]


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` which are not installed on this host."""
    if shutil.which("dpkg-query") is None:
        raise ClusterError("the native cluster is built from Debian's packages, and this host has no dpkg")
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages], capture_output=True, text=True
    )
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def require(packages: Sequence[str], *, purpose: str) -> None:
    """Installs what is missing of `packages`; when not root, raises with the command to run."""
    wanted = missing(packages)
    if not wanted:
        return
    if os.geteuid() != 0:
        raise ClusterError(
            f"{purpose} needs packages that only root can install; run: "
            f"sudo apt-get update && sudo apt-get install -y --no-install-recommends {' '.join(wanted)}"
        )
    # A package's own services must not start: the cluster runs its own, under its own folder.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with step(f"installing {' '.join(wanted)} for {purpose}"):
        run([*_APT, *UNDATED, "update"], what="apt-get update", env=env)
        run([*_APT, "install", "-y", "--no-install-recommends", *wanted], what="apt-get install", env=env)


def fetch_source(package: str, suite: str, folder: Path) -> Path:
    """Unpacks a source package with its patches into `folder`, through a private apt state.

    The host's own sources and lists stay as they are. Returns the unpacked tree.
    """
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    private = [
        "-o",
        f"Dir::Etc::sourcelist={sources}",
        "-o",
        "Dir::Etc::sourceparts=/dev/null",
        "-o",
        f"Dir::State::Lists={lists}",
        "-o",
        f"Dir::Cache={folder}",
        "-o",
        "Dir::Cache::archives=archives",
        "-o",
        "APT::Sandbox::User=root",
        *UNDATED,
    ]
    (folder / "archives/partial").mkdir(parents=True, exist_ok=True)
    run([*_APT, *private, "update"], what=f"reading Debian {suite}'s list of sources", cwd=folder)
    run([*_APT, *private, "source", package], what=f"fetching the source of {package}", cwd=folder)
    trees = [entry for entry in folder.glob(f"{package}-*") if entry.is_dir()]
    if len(trees) != 1:
        raise ClusterError(f"expected one unpacked source of {package} in {folder}, found {len(trees)}")
    return trees[0]


def bootstrap(suite: str, root: Path, packages: Sequence[str], *, log: Path) -> None:
    """Makes a minimal Debian file system at `root`, which appears only when it is whole."""
    if root.exists():
        return
    require(["debootstrap", "ca-certificates"], purpose=f"making a Debian {suite} file system")
    draft = root.with_name(root.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    with step(f"debootstrap of Debian {suite}"):
        run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, draft, MIRROR],
            what=f"debootstrap of Debian {suite}",
            log=log,
        )
    draft.rename(root)
