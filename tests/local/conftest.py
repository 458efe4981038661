"""Runners as processes of their own, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Wait until ``condition`` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.02)


class Workshop:
    """A root for runs and the runners started on it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._folder = folder
        self._runners: list[subprocess.Popen[str]] = []

    def write(self, *documents: str, name: str = "runs.yaml") -> Path:
        """Write documents to a manifest file."""
        path = self._folder / name
        path.write_text("---".join(documents))
        return path

    def start(self, *paths: Path, script: dict | None = None) -> subprocess.Popen[str]:
        """Start a runner; ``script`` says how its jobs behave, by role."""
        env = os.environ | {"PYTHONPATH": str(REPOSITORY), "SCRIPT": json.dumps(script or {}), "OMP_NUM_THREADS": "1"}
        runner = subprocess.Popen(
            [sys.executable, "-m", "tests.local.runs", str(self.root), *map(str, paths)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._runners.append(runner)
        return runner

    def run(self, *paths: Path, script: dict | None = None) -> tuple[int, str]:
        """Run to the end; the exit code and what was printed."""
        runner = self.start(*paths, script=script)
        output = runner.communicate(timeout=60)[0]
        return runner.returncode, output

    def folders(self, kind: str, name: str) -> list[Path]:
        """The run's folders."""
        return list((self.root / "default" / kind).glob(f"{name}-????????"))

    def starts(self, kind: str, name: str, role: str, index: int = 0) -> list[dict]:
        """What the role's job noted at each of its starts."""
        notes = []
        for folder in self.folders(kind, name):
            path = folder / f"{role}-{index}.starts"
            if path.exists():
                notes += [json.loads(line) for line in path.read_text().splitlines()]
        return notes

    def close(self) -> None:
        """End what is still running."""
        for runner in self._runners:
            if runner.poll() is None:
                runner.send_signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.communicate(timeout=10)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """An empty root and runners on it."""
    made = Workshop(tmp_path)
    yield made
    made.close()
