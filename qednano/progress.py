"""Live progress of one process: what it does, how far it is, how fast, and when it will be done.

A process reports to its ``Reporter``; whoever watches (the operator, the local runner, Prometheus) pulls
``GET /progress`` (JSON), ``GET /metrics`` (Prometheus text) and ``GET /healthz`` from one port.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from qednano import metrics as prometheus

log = logging.getLogger(__name__)

EXPORTS_TOLD = 64
_WINDOW = 30  # samples of (time, step) from which the rate is taken


class ProgressReport(BaseModel):
    """One answer of ``GET /progress``. ``rate`` is in units a second, ``eta_seconds`` is None when unknown."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    stage: str = ""
    step: int = 0
    total: int | None = None
    unit: str = "step"
    rate: float | None = None
    eta_seconds: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    message: str = ""
    paused: str = ""  # why the job waits by its own decision; empty while it goes on
    exports: list[int] = Field(default_factory=list)  # steps of a training run whose weights can be evaluated
    inputs: dict[str, str] = Field(default_factory=dict)  # field to digest of inputs that the run pinned itself
    checkpointed: float = 0.0  # Unix time at which the newest checkpoint was complete; 0 before the first
    updated: float = 0.0


class Reporter:
    """Collects progress from the working thread and serves it to whoever asks. Thread-safe."""

    def __init__(
        self, total: int | None = None, unit: str = "step", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = ProgressReport(total=total, unit=unit, updated=time.time())
        self._clock = clock
        self._history: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    def update(
        self,
        *,
        step: int | None = None,
        total: int | None = None,
        unit: str | None = None,
        stage: str | None = None,
        metrics: Mapping[str, float] | None = None,
        message: str | None = None,
        paused: str | None = None,
        exports: Sequence[int] | None = None,
        inputs: Mapping[str, str] | None = None,
        checkpointed: float | None = None,
    ) -> None:
        """Change what is given and leave the rest; a new stage starts the rate afresh."""
        with self._lock:
            report = self._report
            if stage is not None and stage != report.stage:
                report.stage = stage
                self._history.clear()
            if unit is not None:
                report.unit = unit
            if total is not None:
                report.total = total
            if message is not None:
                report.message = message
            if paused is not None:
                report.paused = paused
            if exports is not None:
                report.exports = sorted(set(exports))[-EXPORTS_TOLD:]
            if inputs is not None:
                report.inputs = dict(inputs)
            if checkpointed is not None:
                report.checkpointed = checkpointed
            if metrics:
                report.metrics.update({name: float(value) for name, value in metrics.items()})
            if step is not None:
                if step < report.step:
                    self._history.clear()
                report.step = step
                self._history.append((self._clock(), step))
            report.updated = time.time()
            self._export(report)

    @staticmethod
    def _export(report: ProgressReport) -> None:
        role = os.environ.get("QED_ROLE", "")
        prometheus.STEP.labels(role).set(report.step)
        if report.total is not None:
            prometheus.STEPS_TOTAL.labels(role).set(report.total)
        prometheus.PAUSED.labels(role).set(1 if report.paused else 0)

    def report(self) -> ProgressReport:
        """The newest report, with rate and ETA taken over the last updates."""
        with self._lock:
            report = self._report.model_copy(deep=True)
            if len(self._history) >= 2:
                (then, first), (now, last) = self._history[0], self._history[-1]
                if now > then and last > first:
                    report.rate = (last - first) / (now - then)
                    if report.total is not None:
                        report.eta_seconds = max(0.0, (report.total - report.step) / report.rate)
            return report

    def serve(self, port: int, host: str = "") -> int:
        """Serve /progress, /metrics and /healthz in a background thread; returns the port (0 picks one)."""
        reporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/progress":
                    self._answer(reporter.report().model_dump_json(by_alias=True).encode(), "application/json")
                elif self.path == "/metrics":
                    self._answer(generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
                elif self.path == "/healthz":
                    self._answer(b"ok\n", "text/plain")
                else:
                    self.send_error(404)

            def _answer(self, body: bytes, content_type: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                log.debug(format, *args)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def parse_report(body: bytes | str) -> ProgressReport:
    """Read an answer of ``GET /progress``; ValueError when it is none (the peer is not trusted)."""
    try:
        return ProgressReport.model_validate(json.loads(body))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
