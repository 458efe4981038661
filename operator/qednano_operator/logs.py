"""The operator's log: lines for people, or one JSON object each; every line about a run names it.

A run is named by what surrounds the work on it, not by each message, so no line can leave it out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from qednano.api import KINDS

FORMATS = ("text", "json")

_FIELDS = {"kind": "run_kind", "namespace": "namespace", "name": "run", "uid": "run_uid"}
"""A run's identity, and how log lines call it: as the labels of its metrics do."""

_run: ContextVar[dict[str, str] | None] = ContextVar("run", default=None)


@contextlib.contextmanager
def about(kind: str, namespace: str, name: str, uid: str) -> Iterator[None]:
    """What is logged within is about this run."""
    token = _run.set({"run_kind": kind, "namespace": namespace, "run": name, "run_uid": uid})
    try:
        yield
    finally:
        _run.reset(token)


def _run_of(record: logging.LogRecord) -> dict[str, str]:
    """The run that a line is about; empty when it is about none. kopf names the object in the record itself."""
    named = getattr(record, "k8s_ref", None)
    if isinstance(named, dict) and named.get("kind") in KINDS:
        return {field: str(named.get(key) or "") for key, field in _FIELDS.items()}
    return _run.get() or {}


class TextFormatter(logging.Formatter):
    """Time, level, logger, the run where there is one, and the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(run)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        run = _run_of(record)
        record.run = "{run_kind} {namespace}/{run} ({run_uid}): ".format(**run) if run else ""
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, message, the run's identity, and a traceback as error."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_run_of(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """Log to ``stream`` from now on. ``form`` is one of FORMATS."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level != "DEBUG":
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for each watch event otherwise
