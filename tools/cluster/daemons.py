"""Long-running processes that a later command can find again, and stop without touching anybody else's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.errors import ClusterError


def _start_ticks(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None when it is gone or a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reaps our own child, so that it does not look alive
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Daemon:
    """A process known by its pid file, which holds pid and start time (pids are used again, pairs are not)."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    def pid(self) -> int | None:
        """The process's id while it runs."""
        try:
            pid, _, started = self._pid_file.read_text().strip().partition(" ")
        except OSError:
            return None
        return int(pid) if started and _start_ticks(int(pid)) == started else None

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        dies_with_parent: bool = False,
        cwd: Path | None = None,
    ) -> None:
        """Starts the process in a session of its own; does nothing when it runs already."""
        if self.pid() is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(part) for part in argv]
        if shutil.which(command[0]) is None:
            raise ClusterError(f"{self.name} cannot start: the command {command[0]} is not installed")
        if dies_with_parent:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with self.log.open("ab") as sink:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )
        child.returncode = 0  # never waited for through Popen: _start_ticks reaps it, or init does
        draft = self._pid_file.with_suffix(".new")
        draft.write_text(f"{child.pid} {_start_ticks(child.pid)}\n")
        draft.replace(self._pid_file)

    def check_alive(self) -> None:
        """Raises ClusterError with the log's last line when the process has ended."""
        if self.pid() is None:
            lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
            last = lines[-1] if lines else "its log is empty"
            raise ClusterError(f"{self.name} has ended (log: {self.log}): {last}")

    def stop(self, seconds: float = 10.0) -> None:
        """Asks the process to end, and kills it after `seconds`; does nothing when it isn't running."""
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            pid = self.pid()
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + patience
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        self._pid_file.unlink(missing_ok=True)
