"""Which servers there are: each announces itself in `<run>/pool/` once a second, and is gone when it stops.

Liveness is judged by whether a heartbeat changes, on the reader's own clock, so nodes whose clocks differ don't
lose each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from qednano.errors import Unavailable

LAPSE_SECONDS = 10.0
FIRST_SIGHT_SECONDS = 30.0  # an announcement found at first sight may be this old by its own clock
DISTRUST_SECONDS = 2.0


@dataclass(frozen=True)
class ServerRecord:
    """One announced server: where it is, which weight version it serves, when it last wrote (unix seconds)."""

    name: str
    url: str
    version: int
    heartbeat: float
    pid: int
    model: str = ""


def announce(run_dir: Path, record: ServerRecord) -> None:
    """Write the server's record, atomically; not synced to disk, since the next one is a second away."""
    folder = run_dir / "pool"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{record.name}.{record.pid}.tmp"
    temporary.write_text(json.dumps(asdict(record)))
    os.replace(temporary, folder / f"{record.name}.json")


def withdraw(run_dir: Path, record: ServerRecord) -> None:
    """Remove the server's record, unless a successor has taken the name."""
    path = run_dir / "pool" / f"{record.name}.json"
    current = _read(path)
    if current is not None and (current.pid, current.url) == (record.pid, record.url):
        path.unlink(missing_ok=True)


def _read(path: Path) -> ServerRecord | None:
    try:
        return ServerRecord(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # gone, or not an announcement: not a server either way


class Pool:
    """The live servers of one role, and how many requests each has from this process."""

    wanted_model: str | None = None  # send only to servers of this model; None: any
    wanted_version = 0  # send only to servers with these weights or newer ones

    def __init__(self, run_dir: Path, role: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._role, self._clock = run_dir / "pool", role, clock
        self._seen: dict[str, tuple[float, float]] = {}  # name -> (heartbeat, when it changed on our clock)
        self._distrusted: dict[str, float] = {}  # url -> until when
        self.in_flight: Counter[str] = Counter()

    def servers(self) -> list[ServerRecord]:
        """Servers whose heartbeat is fresh, by name."""
        now, live = self._clock(), []
        for path in sorted(self._folder.glob(f"{self._role}-*.json")):
            record = _read(path)
            if record is None:
                continue
            seen = self._seen.get(record.name)
            if seen is None:
                age = 0.0 if abs(time.time() - record.heartbeat) < FIRST_SIGHT_SECONDS else LAPSE_SECONDS
                seen = (record.heartbeat, now - age)
            elif seen[0] != record.heartbeat:
                seen = (record.heartbeat, now)
            self._seen[record.name] = seen
            if now - seen[1] < LAPSE_SECONDS:
                live.append(record)
        return live

    def distrust(self, server: ServerRecord) -> None:
        """Send nothing to a server that just failed for a moment, while its record may still say it lives."""
        self._distrusted[server.url] = self._clock() + DISTRUST_SECONDS

    def fresh(self) -> list[ServerRecord]:
        """Live servers whose weights are new enough."""
        return [record for record in self.servers() if record.version >= self.wanted_version]

    def choose(self) -> ServerRecord | None:
        """The fresh server of the wanted model with the fewest requests in flight; None when there is none."""
        now = self._clock()
        trusted = [
            record
            for record in self.fresh()
            if self._distrusted.get(record.url, 0.0) <= now and self.wanted_model in (None, record.model)
        ]
        return min(trusted, key=lambda record: (self.in_flight[record.url], record.name), default=None)

    async def wait(self, patience: float, waiting: Callable[[float], None]) -> ServerRecord:
        """The server to send to, once there is one; `waiting(seconds)` is told now and then.

        Raises Unavailable after `patience` seconds.
        """
        started = self._clock()
        while (server := self.choose()) is None:
            waited = self._clock() - started
            if waited > patience:
                raise Unavailable(
                    f"no {self._role} server in {self._folder} for {waited:.0f} s; look at the logs of {self._role}"
                )
            waiting(waited)
            await asyncio.sleep(0.1)
        return server

    @contextlib.asynccontextmanager
    async def busy(self, server: ServerRecord) -> AsyncIterator[None]:
        """Counts a request to `server` while the block runs."""
        self.in_flight[server.url] += 1
        try:
            yield
        finally:
            self.in_flight[server.url] -= 1
