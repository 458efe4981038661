"""A run's status from what its processes report: the same status that a cluster shows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from qednano.api.status import Headline, Progress
from qednano.local.process import Child
from qednano.progress import ProgressReport

HEADLINES = {"ProofDataset": "", "SFTRun": "loss", "RLRun": "reward", "EvalRun": "score"}
_METRICS_LIMIT = 32


def timestamp(seconds: float | None = None) -> str:
    """A time as Kubernetes writes it; now when not given."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def progress_of(kind: str, children: Iterable[Child]) -> Progress | None:
    """The essential role's newest report, with metrics of the other roles added; None before the first."""
    main: ProgressReport | None = None
    others: dict[str, float] = {}
    for child in children:
        report = child.report
        if report is None:
            continue
        if child.role.essential and child.index == 0:
            main = _with_last_words(report, child)
        else:
            others |= report.metrics
    if main is None:
        return None
    metrics = {name: value for name, value in (others | main.metrics).items() if math.isfinite(value)}
    return Progress(
        stage=main.stage[:253],
        step=main.step,
        total=main.total,
        unit=main.unit[:253],
        rate=f"{main.rate:.3g}" if main.rate is not None else "",
        eta_seconds=round(main.eta_seconds) if main.eta_seconds is not None else None,
        message=main.message[:1024],
        metrics=[Headline(name=name, value=_decimal(value)) for name, value in sorted(metrics.items())][
            :_METRICS_LIMIT
        ],
        headline=_shown(metrics, HEADLINES[kind]),
        staleness=_shown(metrics, "staleness"),
        updated=timestamp(main.updated),
    )


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


def _decimal(value: float) -> Decimal:
    return Decimal(f"{value:.6g}")


def _shown(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[name]:.4g}" if name in metrics else ""
