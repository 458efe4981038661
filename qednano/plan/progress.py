"""What a run shows of its progress, from what its processes report: the same on a cluster and on a laptop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from qednano.api.status import HEADLINES, Headline, Progress, Usage
from qednano.progress import EXPORTS_TOLD, ProgressReport

PROMPT_TOKENS, COMPLETION_TOKENS, COST = "tokens/in", "tokens/out", "cost"
ROWS_IN, ROWS_OUT = "rows/in", "rows/out"
"""Metrics that every job reports by these names, each a total over the whole run and all its attempts."""

METRICS_LIMIT = 32
_TEXT, _LABEL = 1024, 253


def headline(kind: str, metrics: Mapping[str, float]) -> str:
    """The number to show for a kind, four digits; empty when the metrics have none."""
    return _shown(metrics, HEADLINES[kind], 4)


def listed(metrics: Mapping[str, float]) -> list[Headline]:
    """The finite metrics by name, at most ``METRICS_LIMIT``."""
    finite = {name[:_LABEL]: value for name, value in metrics.items() if math.isfinite(value)}
    return [Headline(name=name, value=Decimal(f"{finite[name]:.6g}")) for name in sorted(finite)[:METRICS_LIMIT]]


def with_tokens(usage: Usage, metrics: Mapping[str, float]) -> Usage:
    """The usage with the tokens and the money that ``metrics`` tell of. Totals never fall."""
    cost = _whole(metrics, COST)
    return usage.model_copy(
        update={
            "prompt_tokens": max(usage.prompt_tokens, round(_whole(metrics, PROMPT_TOKENS) or 0)),
            "completion_tokens": max(usage.completion_tokens, round(_whole(metrics, COMPLETION_TOKENS) or 0)),
            "cost": usage.cost if cost is None or cost < float(usage.cost or 0) else f"{cost:.2f}",
        }
    )


def _whole(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) and 0 <= value < 1e15 else None


def _count(metrics: Mapping[str, float], name: str) -> int | None:
    value = _whole(metrics, name)
    return None if value is None else round(value)


def summarise(
    kind: str, main: ProgressReport, others: Mapping[str, float], paused: str = "", before: Progress | None = None
) -> Progress:
    """Progress of a run: steps of its main role, and the metrics of all roles (``others`` are the helpers').

    ``paused`` is a helper's reason to wait; ``before`` is the progress that this one follows.
    """
    metrics = {name: value for name, value in {**others, **main.metrics}.items() if math.isfinite(value)}
    updated = datetime.fromtimestamp(main.updated, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = Progress(
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
        rows_in=_count(metrics, ROWS_IN),
        rows_out=_count(metrics, ROWS_OUT),
        paused=(main.paused or paused)[:_TEXT],
        exports=sorted({*main.exports, *(before.exports if before else ())})[-EXPORTS_TOLD:],
        updated=updated,
    )
    return found.model_copy(update={"changed": _changed(found, before)})


def _changed(now: Progress, before: Progress | None) -> str:
    """When the progress last moved. Rates and times alone are no movement."""
    if before is None or not before.changed:
        return now.updated
    idle = {"updated", "changed", "rate", "eta_seconds"}
    same = now.model_dump(exclude=idle) == before.model_dump(exclude=idle)
    return before.changed if same else now.updated


def _shown(metrics: Mapping[str, float], name: str, digits: int) -> str:
    return f"{metrics[name]:.{digits}g}" if name in metrics else ""
