"""Runs as lines of text: what `qednano status` prints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from qednano.api.status import HEADLINES, ConditionType, Phase
from qednano.local.display import aligned, duration
from qednano.steer.interface import Listed

_ALWAYS = {"RUN", "PHASE"}


def lines(runs: Sequence[Listed], where: str, now: datetime | None = None) -> list[str]:
    """A table of the runs, without the columns that none of them fills, and the messages below it.

    ``where`` names the last column: FOLDER or NAMESPACE.
    """
    now = now or datetime.now(UTC)
    table = [_cells(run, where, now) for run in runs]
    shown = [name for name in table[0] if name in _ALWAYS or any(row[name] for row in table)]
    rows = [shown, *([row[name] for name in shown] for row in table)]
    messages = [f"{run.label}: {message}" for run in runs for message in _messages(run)]
    return [*aligned(rows).splitlines(), *messages]


def _messages(run: Listed) -> list[str]:
    """What the run says of itself, and why it stands still if it does."""
    said = [run.status.message if run.status else "", held(run)]
    return [message for message in dict.fromkeys(said) if message]


def held(run: Listed) -> str:
    """Why a run whose pods run makes no progress: it has stalled, or waits by its own decision; empty otherwise."""
    if run.status is None or run.phase != Phase.RUNNING:
        return ""
    conditions = {condition.type: condition for condition in run.status.conditions}
    found = conditions.get(ConditionType.PROGRESSING)
    return f"{found.reason}: {found.message}" if found is not None and found.status == "False" else ""


def _cells(run: Listed, where: str, now: datetime) -> dict[str, str]:
    status = run.status
    progress = status.progress if status else None
    moving = progress is not None and not run.ended
    due = progress.eta_seconds if progress is not None and moving and not held(run) else None
    usage = status.usage if status else None
    return {
        "RUN": run.label,
        "PHASE": run.phase,
        "STAGE": progress.stage if moving and progress else "",
        "STEP": f"{progress.step}/{progress.total or '?'}" if progress else "",
        "HEADLINE": _headline(run),
        "TIME": duration(_seconds(run, now)),
        "ETA": duration(due) if due else "",
        "RESTARTS": str(status.counted_restarts) if status and status.counted_restarts else "",
        "GOODPUT": _share(usage.goodput) if usage else "",
        "COST": _money(usage.cost, usage.gpu_cost) if usage else "",
        where: run.where,
    }


def _headline(run: Listed) -> str:
    progress = run.status.progress if run.status else None
    if progress is None:
        return ""
    if run.kind == "ProofDataset":
        return f"{progress.rows_out} rows" if progress.rows_out is not None else ""
    return f"{HEADLINES[run.kind]} {progress.headline}" if progress.headline else ""


def _share(text: str) -> str:
    """A share of 1 in percent; empty where it is not known."""
    return f"{100 * float(text):.0f} %" if text else ""


def _money(*parts: str) -> str:
    """What endpoints and GPUs cost together; empty where nothing has a price."""
    total = sum((Decimal(part) for part in parts if part), Decimal(0))
    return f"{total:.2f}" if total >= Decimal("0.01") else f"{total:f}" if total else ""


def _seconds(run: Listed, now: datetime) -> float | None:
    """From the start to the end, or to now."""
    if run.status is None or not run.status.start_time or (not run.ended and run.phase == "Suspended"):
        return None
    end = datetime.fromisoformat(run.status.completion_time) if run.status.completion_time else now
    return max(0.0, (end - datetime.fromisoformat(run.status.start_time)).total_seconds())
