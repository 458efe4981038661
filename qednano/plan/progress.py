"""What a run shows of its progress, from what its processes report: the same on a cluster and on a laptop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from qednano.api.status import Headline, Progress
from qednano.progress import ProgressReport

HEADLINES = {"ProofDataset": "", "SFTRun": "loss", "RLRun": "reward", "EvalRun": "score"}
"""The metric that a kind's printer column shows. An RL run's reward is the actor's: of all groups drawn."""

METRICS_LIMIT = 32
_TEXT, _LABEL = 1024, 253


def headline(kind: str, metrics: Mapping[str, float]) -> str:
    """The number to show for a kind, four digits; empty when the metrics have none."""
    return _shown(metrics, HEADLINES[kind], 4)


def listed(metrics: Mapping[str, float]) -> list[Headline]:
    """The finite metrics by name, at most ``METRICS_LIMIT``."""
    finite = {name[:_LABEL]: value for name, value in metrics.items() if math.isfinite(value)}
    return [Headline(name=name, value=Decimal(f"{finite[name]:.6g}")) for name in sorted(finite)[:METRICS_LIMIT]]


def summarise(kind: str, main: ProgressReport, others: Mapping[str, float]) -> Progress:
    """Progress of a run: steps of its main role, and the metrics of all roles (``others`` are the helpers')."""
    metrics = {name: value for name, value in {**others, **main.metrics}.items() if math.isfinite(value)}
    return Progress(
        stage=main.stage[:_LABEL],
        step=main.step,
        total=main.total,
        unit=main.unit[:_LABEL],
        rate="" if main.rate is None else f"{main.rate:.3g}",
        eta_seconds=None if main.eta_seconds is None else round(main.eta_seconds),
        message=main.message[:_TEXT],
        metrics=listed(metrics),
        headline=headline(kind, metrics),
        staleness=_shown(metrics, "staleness", 3),
        updated=datetime.fromtimestamp(main.updated, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _shown(metrics: Mapping[str, float], name: str, digits: int) -> str:
    return f"{metrics[name]:.{digits}g}" if name in metrics else ""
