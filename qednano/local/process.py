"""One process of a role: how it is started, what it reports, and how it ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from qednano.local.ports import free_port, is_free
from qednano.plan import Lifecycle, Role, told_exit_code
from qednano.progress import ProgressReport, parse_report

HOST = "127.0.0.1"
_TETHER = str(Path(__file__).with_name("tether.py"))
_DIED_WITH_RUNNER_GRACE = 10.0  # seconds to save when the runner itself has died
_PULL_SECONDS = 0.5
_NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LastWords(BaseModel):
    """What a job leaves in its termination file."""

    outcome: str
    reason: str
    message: str = ""
    metrics: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Leash:
    """What ties processes to the runner: the reading end of its pipe, and handles to keep open."""

    reading: int
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a process of a run lives: folder, configuration, and the rendezvous of its role."""

    run_dir: Path
    rendezvous_port: int = 0


def command(role: Role, index: int, rendezvous_port: int) -> list[str]:
    """The command of replica ``index``: the module itself, or torchrun when the role has several ranks."""
    if not role.distributed:
        return [sys.executable, "-m", role.module]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={role.processes}"]
    if role.replicas == 1:
        torchrun.append("--standalone")
    else:
        torchrun += [f"--nnodes={role.replicas}", f"--node-rank={index}", f"--master-addr={HOST}"]
        torchrun.append(f"--master-port={rendezvous_port}")
    return [*torchrun, "-m", role.module]


class Child:
    """A started process. All files of an attempt are in the run's ``logs`` folder."""

    def __init__(self, role: Role, index: int, attempt: int, place: Place, leash: Leash) -> None:
        self.role, self.index, self.attempt = role, index, attempt
        name = f"{role.name}-{index}"
        logs = place.run_dir / "logs"
        scratch = place.run_dir / "scratch" / name
        for folder in (logs, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}.a{attempt}.log"
        self._words = logs / f"{name}.a{attempt}.json"
        self._words.unlink(missing_ok=True)
        self.port = free_port() if role.lifecycle is Lifecycle.SERVER else 0
        self.metrics_port = free_port({self.port})
        self.report: ProgressReport | None = None
        self.words: LastWords | None = None  # once it has ended
        self.answered = role.lifecycle is Lifecycle.TASK
        self._ended = threading.Event()
        handles = (leash.reading, *leash.kept)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _TETHER, str(_DIED_WITH_RUNNER_GRACE), *map(str, handles), "--"]
                + command(role, index, place.rendezvous_port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(place, scratch),
                cwd=scratch,
                start_new_session=True,
                pass_fds=handles,
            )
        threading.Thread(target=self._pull, name=f"progress of {name}", daemon=True).start()

    def _environment(self, place: Place, scratch: Path) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in _NOT_INHERITED and (not name.startswith("QED_") or name == "QED_LOG_LEVEL")
        }
        return inherited | {
            "QED_CONFIG": str(place.run_dir / "config.json"),
            "QED_RUN_DIR": str(place.run_dir),
            "QED_ROLE": self.role.name,
            "QED_INDEX": str(self.index),
            "QED_ATTEMPT": str(self.attempt),
            "QED_HOST": HOST,
            "QED_PORT": str(self.port),
            "QED_METRICS_PORT": str(self.metrics_port),
            "QED_TERMINATION_PATH": str(self._words),
            "QED_SCRATCH": str(scratch),
            "OMP_NUM_THREADS": str(self.role.threads),
            "PYTHONUNBUFFERED": "1",
        }

    def _pull(self) -> None:
        while not self._ended.wait(_PULL_SECONDS):
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self.report = parse_report(_get(self.metrics_port, "/progress"))
            if not self.answered:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    _get(self.port, "/health")
                    self.answered = True

    def poll(self) -> int | None:
        """The exit code that the job meant, None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if not self._ended.is_set():
            self._ended.set()
            with contextlib.suppress(OSError, ValidationError):
                self.words = LastWords.model_validate_json(self._words.read_bytes())
        return told_exit_code(code, self.words.reason) if self.words else code

    def last_line(self) -> str:
        """The last line of its log that says anything."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").splitlines()
        return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "")

    def lost_its_port(self) -> bool:
        """Whether someone else listens on a port that this ended process was told to use."""
        return any(port and not is_free(port) for port in (self.port, self.metrics_port))

    def terminate(self) -> None:
        """Ask it to save and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything below it at once."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise http.client.HTTPException(f"{path} answered {answer.status}")
        return answer.read(1 << 20)
    finally:
        connection.close()
