"""Operators that start fast, so that many can be killed: one interpreter imports everything and forks for each.

What runs in the child is `qednano_operator.main` with the given flags, in a process of its own; a supervisor starts the
next one as soon as one has ended, as a kubelet does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.operator.harness import free_port


def serve() -> None:
    """Fork an operator for every line of flags on stdin; tell its process id, and its exit code once it has ended."""
    from qednano_operator.main import main

    lines = os.fdopen(os.dup(0), "r", buffering=1)
    for line in lines:
        flags = json.loads(line)
        child = os.fork()
        if child == 0:
            lines.close()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)  # what the parent reads is no log
            os._exit(_run(main, flags))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(main: object, flags: list[str]) -> int:
    try:
        return int(main(flags))  # type: ignore[operator]
    except BaseException:  # the process ends here: what it says of its end is all that is left
        import traceback

        traceback.print_exc()
        return 1


class Nursery:
    """An operator that always comes back. ``pid`` is the living one's, 0 between two."""

    def __init__(self, kubeconfig: Path, log: Path, *flags: str) -> None:
        self.pid = 0
        self.ends: list[int] = []  # exit codes, negative for signals
        self.port = free_port()
        self._flags = [f"--port={self.port}", "--bind=127.0.0.1", *flags]
        self._log = log.open("ab")
        env = {key: value for key, value in os.environ.items() if not key.startswith("QED_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.chaos.nursery import serve; serve()"],
            env={**env, "KUBECONFIG": str(kubeconfig)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._wanted = True
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> Nursery:
        """Have one run from now on."""
        self._thread.start()
        return self

    def _keep(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        while self._wanted:
            self._process.stdin.write(json.dumps(self._flags) + "\n")
            self._process.stdin.flush()
            self.pid = int(self._process.stdout.readline())
            code = self._process.stdout.readline()
            self.pid = 0
            self.ends.append(int(code or 0))

    def kill(self) -> bool:
        """SIGKILL for the living one; False when there is none."""
        pid, self.pid = self.pid, 0
        if pid:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        return bool(pid)

    def stop(self) -> None:
        """End for good."""
        self._wanted = False
        self.kill()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._thread.join(20)
        self._process.kill()
        self._process.wait(10)
        self._log.close()
