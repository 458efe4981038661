"""What benches compare with, each in an environment of its own in the user's cache, made on first use.

So the project depends on none of it. TRL borrows this environment's torch and transformers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TRL = "1.16.0"
DASK_KUBERNETES = "2026.3.0"
_ROOT = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qednano"
CACHE = _ROOT / f"trl-{TRL}"
_DASK = _ROOT / f"dask-kubernetes-{DASK_KUBERNETES}"
_PYTHON = CACHE / "bin" / "python"


def has_trl() -> bool:
    """Whether the environment is there already."""
    return _PYTHON.is_file()


def trl_python() -> Path:
    """The interpreter of TRL's own environment, made when it isn't there."""
    if not has_trl():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True)
        packages = next((CACHE / "lib").glob("python3*")) / "site-packages"
        borrowed = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
        subprocess.run([str(_PYTHON), "-m", "pip", "install", "-q", "--no-deps", f"trl=={TRL}"], check=True)
    return _PYTHON


def dask_kubernetes() -> Path:
    """The environment of dask-kubernetes with its operator."""
    if not (_DASK / "bin" / "kopf").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(_DASK)], check=True)
        wanted = f"dask-kubernetes=={DASK_KUBERNETES}"
        subprocess.run([str(_DASK / "bin" / "python"), "-m", "pip", "install", "-q", wanted], check=True)
    return _DASK
