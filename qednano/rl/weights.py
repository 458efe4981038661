"""Weights on their way from the trainer to the servers: ``weights/v000012/`` folders and the text file ``LATEST``.

A version is the number of optimizer steps behind the weights. A folder is complete or absent, and LATEST names one
that is complete; the last two are kept, so a server may still be reading the one before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qednano.artifacts import staging, write_atomic

KEEP = 2


@dataclass(frozen=True)
class PublishedWeights:
    """A version and its Hugging Face model folder."""

    version: int
    folder: Path


def publish(
    run_dir: Path, version: int, write: Callable[[Path], None], fence: Callable[[], None] = lambda: None
) -> PublishedWeights:
    """Let `write` fill a folder, make it visible as this version, and point LATEST at it. One process publishes.

    A version that is there already is written anew, since a run that resumed may have other weights for it. `fence`
    raises when another process has taken over: asked once the weights are written, which may take minutes, and again
    before LATEST moves.
    """
    root = run_dir / "weights"
    final = root / f"v{version:06d}"
    for leftover in root.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with staging(final) as folder:
        write(folder)
        fence()
        if final.exists():
            os.replace(final, Path(tempfile.mkdtemp(prefix=".tmp-", dir=root)) / "old")
        os.replace(folder, final)
    fence()
    write_atomic(root / "LATEST", f"{final.name}\n")
    # Versions above this one belong to a life that ended before its checkpoint; nobody will be sent there.
    kept = [item for item in _versions(root) if item.version <= version][-KEEP:]
    for item in _versions(root):
        if item not in kept:
            shutil.rmtree(item.folder, ignore_errors=True)
    return PublishedWeights(version, final)


def latest(run_dir: Path) -> PublishedWeights | None:
    """The newest published weights, None before the first."""
    root = run_dir / "weights"
    try:
        name = (root / "LATEST").read_text().strip()
        return PublishedWeights(int(name.removeprefix("v")), root / name)
    except (FileNotFoundError, ValueError):
        return None


def latest_version(run_dir: Path) -> int:
    """The newest published version, 0 before the first."""
    found = latest(run_dir)
    return found.version if found else 0


def _versions(root: Path) -> list[PublishedWeights]:
    found = [path for path in root.glob("v*") if path.name[1:].isdigit()]
    return sorted((PublishedWeights(int(path.name[1:]), path) for path in found), key=lambda item: item.version)
