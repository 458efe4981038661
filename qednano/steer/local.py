"""Runs under a root of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from qednano.artifacts import write_atomic
from qednano.errors import UsageError
from qednano.local.folders import RunFolder, as_seen, folders, in_use, runner_of
from qednano.local.logs import newest_logs, print_logs
from qednano.steer.interface import Listed

_COMMAND = "last-command.json"


def remember(root: Path, paths: Sequence[Path]) -> None:
    """Keep what was asked to run, so that `qednano resume` can ask for it again."""
    with contextlib.suppress(OSError):  # a root that can't be used is told by the run itself
        root.mkdir(parents=True, exist_ok=True)
        write_atomic(root / _COMMAND, json.dumps({"paths": [str(path.resolve()) for path in paths]}))


class LocalRuns:
    """The runs under one root. One runner serves them all, so suspending one stops that runner."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def about(self) -> str:
        """Under which root."""
        return f"under {self.root}"

    def runs(self) -> list[Listed]:
        """Every run that has a folder."""
        running = in_use(self.root)
        return [
            Listed(
                kind=key[1],
                namespace=key[0],
                name=key[2],
                status=as_seen(status, running) if (status := folder.status()) else None,
                where=str(folder.path),
            )
            for key, folder in folders(self.root)
        ]

    def _runner(self, run: Listed) -> int:
        pid = runner_of(self.root)
        if run.ended:
            raise UsageError(f"{run.label} has ended ({run.phase}); there is nothing to stop")
        if not pid:
            raise UsageError(f"nothing runs under {self.root}; `qednano resume {run.name}` would go on")
        return pid

    def suspend(self, run: Listed) -> str:
        """Ask the runner to save and stop, as Ctrl-C does."""
        pid = self._runner(run)
        os.kill(pid, signal.SIGINT)
        return f"asked the runner (process {pid}) to save and stop; `qednano resume {run.name}` goes on"

    def resume(self, run: Listed) -> str:
        """Run the last command of this root again, until its end."""
        if runner_of(self.root):
            raise UsageError(f"a runner is at work under {self.root} already")
        try:
            paths = json.loads((self.root / _COMMAND).read_bytes())["paths"]
        except (OSError, ValueError, KeyError):
            raise UsageError(
                f"{self.root} does not say what was run; use `qednano run FILE --root {self.root}`"
            ) from None
        done = subprocess.run([sys.executable, "-m", "qednano.cli", "run", *paths, "--root", str(self.root)])
        if done.returncode:
            raise UsageError(f"the run ended with exit code {done.returncode}; see above")
        return f"{run.label} and all that it belongs to are done"

    def cancel(self, run: Listed) -> str:
        """Stop the runner; unlike on a cluster the run could be taken up again, since nothing says it may not."""
        pid = self._runner(run)
        os.kill(pid, signal.SIGTERM)
        return (
            f"asked the runner (process {pid}) to stop; what was saved is in {run.where}: remove it to forget the run"
        )

    def logs(self, run: Listed, role: str, lines: int, follow: bool, out: TextIO) -> None:
        """Print the newest logs."""
        print_logs(newest_logs(RunFolder(Path(run.where)).logs, role), lines, follow, out)
