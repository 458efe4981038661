"""The Redis server of a run's own: its settings, and how the run's other processes find it.

It listens where the run's processes can reach it, asks for a password that nobody has seen before, and answers a write
only once it is on disk. Address and password are in a file of the run's folder that its user alone may read, beside
what the server keeps: whoever can read that has the samples anyway. So nothing in a cluster has to make Secrets.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from qednano.artifacts import write_atomic
from qednano.errors import Stopped, Unavailable

FOLDER, ADDRESS = "redis", "address.json"
PATIENCE_SECONDS = 600.0  # for the server to come up: its pod may have to be scheduled
_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Address:
    """Where a run's own server listens, and its password."""

    host: str
    port: int
    password: str

    @property
    def url(self) -> str:
        """As a Redis client takes it, without the password."""
        return f"redis://{self.host}:{self.port}/0"


def known_address(run_dir: Path) -> Address | None:
    """What the run's server has told; None before its first start."""
    with contextlib.suppress(FileNotFoundError):
        return Address(**json.loads((run_dir / FOLDER / ADDRESS).read_bytes()))
    return None


def tell_address(run_dir: Path, address: Address) -> None:
    """Let the run's processes, and nobody else, know."""
    write_atomic(run_dir / FOLDER / ADDRESS, json.dumps(asdict(address)), mode=0o600)


def new_password() -> str:
    """256 random bits, in letters that need no quoting in Redis' settings."""
    return secrets.token_urlsafe(32)


def wait_for_address(run_dir: Path, stopping: threading.Event, patience: float = PATIENCE_SECONDS) -> Address:
    """The address, as soon as it is told. Raises Stopped when asked to stop, Unavailable after `patience` seconds."""
    deadline = time.monotonic() + patience
    while (found := known_address(run_dir)) is None:
        if stopping.wait(_TICK_SECONDS):
            raise Stopped("asked to stop before the run's Redis was up; nothing was begun")
        if time.monotonic() > deadline:
            raise Unavailable(f"the run's own Redis was not up after {patience:.0f} s; look at the log of role stream")
    return found


def settings(address: Address, bind: str, folder: Path) -> str:
    """Redis' configuration file: acknowledged writes are on disk, nothing is ever evicted, nobody is let in unasked."""
    lines = {
        "port": address.port,
        "bind": bind,
        "protected-mode": "yes",
        "requirepass": address.password,
        "dir": f'"{folder}"',
        "appendonly": "yes",
        "appendfsync": "always",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())
