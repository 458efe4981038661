"""Pulls ``GET /progress`` from the pods of live runs. What pods answer is not trusted: bounded, checked, clipped."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from qednano.progress import EXPORTS_TOLD, ProgressReport, parse_report
from qednano_operator.cache import Cache, Key
from qednano_operator.clock import Clock
from qednano_operator.decision import Object
from qednano_operator.health import REPORTING_ROLES
from qednano_operator.manifests import METRICS_PORT
from qednano_operator.observe import pod_of

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two questions to the same pod, at least
_RATE = 10.0  # questions a second in all: a thousand runs cost no more than twenty, and are asked every two minutes
_BACKOFF = 10.0  # seconds until a pod that did not answer is asked again
_TIMEOUT = 2.0
_BYTES = 64 << 10
_METRICS, _INPUTS, _NAME, _TEXT = 48, 64, 64, 512
_LIVE = ("Starting", "Running", "Restarting")


def _finite(value: float | None, limit: float) -> float | None:
    return value if value is not None and math.isfinite(value) and abs(value) <= limit else None


def bounded(report: ProgressReport, now: float, lag: float = 0.0) -> ProgressReport:
    """The report with every number finite and in range, and every text short.

    ``lag``: seconds by which the clock of its process is behind that of ``now``, which the report follows from here on.
    """
    metrics = {
        name[:_NAME]: value
        for name, value in list(report.metrics.items())[:_METRICS]
        if name and _finite(value, 1e30) is not None
    }
    step = min(max(report.step, 0), 10**12)
    total = None if report.total is None else min(max(report.total, 0), 10**12)
    updated = _finite(report.updated + lag, now + 60)
    eta = _finite(report.eta_seconds, 1e9)
    checkpointed = _finite(report.checkpointed + lag if report.checkpointed else 0.0, now + 60)
    return ProgressReport(
        stage=report.stage[:_NAME],
        step=step,
        total=total,
        unit=report.unit[:_NAME],
        rate=_finite(report.rate, 1e15),
        eta_seconds=None if eta is None else max(eta, 0.0),
        metrics=metrics,
        message=report.message[:_TEXT],
        paused=report.paused[:_TEXT],
        exports=sorted({step for step in report.exports if 0 < step <= 10**9})[-EXPORTS_TOLD:],
        inputs=dict(list(report.inputs.items())[:_INPUTS]),
        checkpointed=max(checkpointed or 0.0, 0.0),
        updated=max(updated, 0.0) if updated is not None else now,
    )


@dataclass(frozen=True)
class Source:
    """One pod to ask."""

    key: Key
    role: str
    uid: str
    ip: str


def sources(key: Key, run: Object, children: list[Object]) -> list[Source]:
    """The pods of a live run that report: the first pod of each reporting role in its newest attempt."""
    if (run.get("status") or {}).get("phase") not in _LIVE:
        return []
    pods = [pod_of(child) for child in children if child["kind"] == "Pod"]
    found = []
    for role in REPORTING_ROLES[key[0]]:
        mine = [pod for pod in pods if pod.role == role and pod.index == 0]
        newest = max(mine, key=lambda pod: pod.attempt, default=None)
        if newest is not None and newest.running and newest.ip and not newest.terminating:
            found.append(Source(key, role, newest.uid, newest.ip))
    return found


class ProgressPuller:
    """Keeps the newest report of each reporting pod and names the runs whose reports changed."""

    def __init__(self, cache: Cache, clock: Clock, changed: Callable[[Key], None]) -> None:
        self._cache = cache
        self._clock = clock
        self._changed = changed
        self._reports: dict[Key, dict[str, ProgressReport]] = {}
        self._not_before: dict[str, float] = {}  # pod uid to the earliest time of the next question
        self._answers: dict[str, bytes] = {}  # pod uid to its last answer

    def reports(self, key: Key) -> Mapping[str, ProgressReport]:
        """The newest reports of a run, by role."""
        return self._reports.get(key, {})

    async def run(self) -> None:
        """Pull until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session,
            asyncio.TaskGroup() as questions,
        ):
            while True:
                await self._round(session, questions)

    async def _round(self, session: aiohttp.ClientSession, questions: asyncio.TaskGroup) -> None:
        """Ask each pod once, evenly spread over the round."""
        wanted = self._wanted()
        pause = max(INTERVAL / max(1, len(wanted)), 1 / _RATE)
        if not wanted:
            await asyncio.sleep(pause)
        for source in wanted:
            if self._not_before[source.uid] <= time.monotonic():
                questions.create_task(self._ask(session, source))
            await asyncio.sleep(pause)

    def _wanted(self) -> list[Source]:
        wanted: list[Source] = []
        live: set[Key] = set()
        for key in self._cache.keys():  # noqa: SIM118
            run = self._cache.run(key)
            if run is None:
                continue
            mine = sources(key, run, list(self._cache.children(key)))
            wanted += mine
            if mine:
                live.add(key)
        for key in [key for key in self._reports if key not in live]:
            del self._reports[key]
        self._not_before = {source.uid: self._not_before.get(source.uid, 0.0) for source in wanted}
        self._answers = {uid: body for uid, body in self._answers.items() if uid in self._not_before}
        return wanted

    async def _ask(self, session: aiohttp.ClientSession, source: Source) -> None:
        host = f"[{source.ip}]" if ":" in source.ip else source.ip
        url = f"http://{host}:{METRICS_PORT}/progress"
        asked = time.monotonic()
        try:
            async with session.get(url, allow_redirects=False) as response:
                lag = self._clock.lag(response.headers.get("Date"), asked)
                body = await _read(response)
            reports = self._reports.setdefault(source.key, {})
            if source.role in reports and self._answers.get(source.uid) == body:
                return
            report = bounded(parse_report(body), self._clock.seconds(), lag)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("no progress from %s: %s", url, error)
            self._not_before[source.uid] = time.monotonic() + _BACKOFF
            return
        self._answers[source.uid] = body
        if reports.get(source.role) != report:
            reports[source.role] = report
            self._changed(source.key)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body of a 200, at most 64 KiB of it; ValueError otherwise."""
    if response.status != 200:
        raise ValueError(f"answered {response.status}")
    body = b""
    async for piece in response.content.iter_chunked(16 << 10):
        body += piece
        if len(body) > _BYTES:
            raise ValueError(f"answered more than {_BYTES} bytes")
    return body
