"""Deadlines: how long a run may be active, stand still, and stay after its end (spec.limits and the TTL)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from qednano.api import ConditionType, RunStatus
from qednano.api.common import OnStall
from qednano.plan import Action, Verdict
from qednano_operator.attempts import Failure
from qednano_operator.conditions import find, is_false, is_true, put
from qednano_operator.observe import parse_time
from qednano_operator.subject import Subject

_NEVER = datetime.max.replace(tzinfo=UTC)


def later(moment: datetime, seconds: int) -> datetime:
    """So many seconds after ``moment``; the end of time where that is beyond it, as it is for a stored year 9999."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return _NEVER


def active_since(status: RunStatus) -> datetime | None:
    """When the run started, was resumed or got its quota last: the deadline's clock starts afresh then, as a Job's.

    None before the start and while the run waits for quota.
    """
    start = parse_time(status.start_time)
    if start is None or is_false(status, ConditionType.QUOTA_RESERVED):
        return None
    suspended, quota = find(status, ConditionType.SUSPENDED), find(status, ConditionType.QUOTA_RESERVED)
    resumed = suspended if suspended is not None and suspended.reason == "Resumed" else None
    moments = [parse_time(item.last_transition_time) for item in (resumed, quota) if item is not None]
    return max([start, *(moment for moment in moments if moment is not None)])


def overdue(subject: Subject) -> str:
    """Why the run has been active for too long, as a sentence; empty when it has not."""
    end = deadline(subject)
    if end is None or subject.now < end:
        return ""
    seconds = subject.spec.limits.active_deadline_seconds
    return (
        f"it has been active for {seconds} s (spec.limits.activeDeadlineSeconds); its last checkpoint is kept: "
        "make a new run with a longer limit"
    )


def deadline(subject: Subject) -> datetime | None:
    """When the run has been active for too long."""
    seconds, since = subject.spec.limits.active_deadline_seconds, active_since(subject.status)
    return later(since, seconds) if seconds and since is not None else None


def _moved(status: RunStatus) -> datetime | None:
    """When the run last showed a sign of life: progress that changed, all pods running, or the end of an attempt."""
    running = find(status, ConditionType.RUNNING)
    signs = [
        parse_time(status.progress.changed) if status.progress else None,
        parse_time(running.last_transition_time) if running else None,
        parse_time(status.attempts[-1].ended) if status.attempts else None,
        active_since(status),
    ]
    return max((sign for sign in signs if sign is not None), default=None)


def stall_time(subject: Subject) -> datetime | None:
    """When the run counts as stalled if nothing moves until then; None while it can't stall."""
    seconds, status = subject.spec.limits.stall_seconds, subject.status
    if not seconds or not is_true(status, ConditionType.RUNNING) or _paused(status):
        return None
    moved = _moved(status)
    return None if moved is None else later(moved, seconds)


def _paused(status: RunStatus) -> str:
    return status.progress.paused if status.progress else ""


def stalled(subject: Subject) -> str:
    """Why the run counts as stalled, as a sentence; empty when it does not."""
    end = stall_time(subject)
    if end is None or subject.now < end:
        return ""
    progress = subject.status.progress
    where = f"at {progress.stage or progress.unit} {progress.step}" if progress else "without any progress"
    return (
        f"nothing has changed for {subject.spec.limits.stall_seconds} s (spec.limits.stallSeconds), {where}; "
        "look at the logs of its pods"
    )


def stall_failure(subject: Subject, role: str) -> Failure | None:
    """The restart that spec.limits.onStall asks for, as a failure of the run's main role; None without one."""
    if subject.spec.limits.on_stall is not OnStall.RESTART:
        return None
    why = stalled(subject)
    return Failure(role, Verdict(Action.RESTART, "Stalled"), why) if why else None


def progressing(subject: Subject) -> RunStatus:
    """The condition Progressing of a run all of whose pods run: Reporting, Paused or Stalled."""
    status, generation, now = subject.status, subject.generation, subject.now
    why = stalled(subject)
    if why:
        return put(status, ConditionType.PROGRESSING, False, "Stalled", why, generation, now)
    if _paused(status):
        return put(status, ConditionType.PROGRESSING, False, "Paused", _paused(status), generation, now)
    if status.progress is not None:
        return put(status, ConditionType.PROGRESSING, True, "Reporting", "", generation, now)
    return status


def held_reason(status: RunStatus) -> str:
    """Stalled or Paused, for a run in which nothing goes on; empty for any other."""
    found = find(status, ConditionType.PROGRESSING)
    held = found is not None and found.status == "False" and found.reason in ("Stalled", "Paused")
    return found.reason if found is not None and held else ""


def expiry(subject: Subject) -> datetime | None:
    """When the ended run is to be deleted; None when it stays."""
    seconds, end = subject.spec.ttl_seconds_after_finished, parse_time(subject.status.completion_time)
    return None if seconds is None or end is None else later(end, seconds)


def seconds_until(subject: Subject, *moments: datetime | None) -> float | None:
    """Seconds until the first of the moments that are still to come; None when there is none."""
    coming = [(moment - subject.now).total_seconds() for moment in moments if moment is not None]
    return min((seconds for seconds in coming if seconds > 0), default=None)
