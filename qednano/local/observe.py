"""A run's status from what its processes report: the same status that a cluster shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime

from qednano.api.status import Progress, Usage
from qednano.local.process import Child
from qednano.plan.progress import summarise, with_tokens
from qednano.progress import ProgressReport


def timestamp(seconds: float | None = None) -> str:
    """A time as Kubernetes writes it; now when not given."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def progress_of(kind: str, children: Iterable[Child], before: Progress | None = None) -> Progress | None:
    """The essential role's newest report, with metrics of the other roles added; None before the first."""
    main: ProgressReport | None = None
    others: dict[str, float] = {}
    paused = ""
    for child in children:
        report = child.report
        if report is None:
            continue
        if child.role.essential and child.index == 0:
            main = _with_last_words(report, child)
        else:
            others |= report.metrics
            paused = paused or report.paused
    if main is None:
        return None
    return summarise(kind, main, others, paused, before)


def usage_of(children: Iterable[Child], before: Usage | None) -> Usage | None:
    """The tokens and the money that the processes have told of so far; None while there are none."""
    usage = before or Usage()
    for child in children:
        if child.report is not None:
            usage = with_tokens(usage, child.report.metrics)
    return usage if before is not None or usage != Usage() else None


def _with_last_words(report: ProgressReport, child: Child) -> ProgressReport:
    """The report with the metrics that the job ended with: the last pull may have come before them."""
    if child.words is None:
        return report
    final = {}
    for name, text in child.words.metrics.items():
        with contextlib.suppress(ValueError):
            final[name] = float(text)
    step = report.total if child.words.outcome == "Succeeded" and report.total else report.step
    return report.model_copy(update={"metrics": report.metrics | final, "step": step})
