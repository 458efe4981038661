"""Events that follow from a change of status. They are derived, so a repeated pass repeats none."""

from __future__ import annotations

from collections.abc import Iterator

from qednano.api import ConditionType, Phase, RunStatus
from qednano_operator.conditions import find
from qednano_operator.decision import Event
from qednano_operator.lineage import LOST


def _waiting(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.DEPENDENCIES_READY), find(after, ConditionType.DEPENDENCIES_READY)
    if after.phase is Phase.WAITING and new is not None and (old is None or old.message != new.message):
        yield Event("Waiting", new.message)
    if after.phase is Phase.PENDING and before.message != after.message:
        yield Event("InvalidSpec", after.message, warning=True)


def _lost(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.DEPENDENCIES_READY), find(after, ConditionType.DEPENDENCIES_READY)
    if new is not None and new.reason == LOST and (old is None or old.message != new.message):
        yield Event(new.reason, new.message, warning=True)


def _accepted(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.ACCEPTED), find(after, ConditionType.ACCEPTED)
    if new is None or new.status != "True":
        return
    if (old is None or old.status != "True") and not _starts(before, after):  # a start says that it was accepted
        yield Event("Accepted", "the spec is valid")
    if new.message and (old is None or old.message != new.message):
        yield Event(new.reason, new.message, warning=True)


def _queued(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.QUOTA_RESERVED), find(after, ConditionType.QUOTA_RESERVED)
    if new is None or new.reason == "Released":
        return
    if new.status == "True":
        if old is None or old.status != "True":
            yield Event("Admitted", "the quota that the run needs is there")
    elif old is None or (old.status, old.reason) != (new.status, new.reason):
        yield Event("Queued", new.message, warning=new.reason not in ("Pending", "QuotaExceeded"))


def _starts(before: RunStatus, after: RunStatus) -> bool:
    return bool(after.start_time) and not before.start_time


def _attempts(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    if _starts(before, after):
        yield Event("Starting", f"attempt 1 starts; the run's folder is {after.run_dir}")
    elif after.attempt > before.attempt and after.phase is Phase.RESTARTING:
        yield Event("Restarting", after.message, warning=True)
    elif after.attempt > before.attempt > 0:
        yield Event("Resuming", f"attempt {after.attempt} continues from the last checkpoint")


_PHASES = {
    Phase.RUNNING: Event("Started", "all pods run"),
    Phase.SUSPENDING: Event("Suspending", "pods save their state and end"),
    Phase.SUSPENDED: Event("Suspended", "no pod is left; spec.suspend false continues the run"),
}


def _phases(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    if after.phase is before.phase or after.phase is None:
        return
    if after.phase in _PHASES:
        yield _PHASES[after.phase]
    elif after.phase is Phase.SUCCEEDED:
        yield Event("Succeeded", after.message or "the run has succeeded")
    elif after.phase is Phase.FAILED:
        yield Event("Failed", after.message, warning=True)


def _scheduling(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.SCHEDULED), find(after, ConditionType.SCHEDULED)
    if new is not None and new.reason == "Unschedulable" and (old is None or old.message != new.message):
        yield Event("Unschedulable", new.message, warning=True)


def _progressing(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.PROGRESSING), find(after, ConditionType.PROGRESSING)
    if new is not None and new.reason in ("Stalled", "Paused") and (old is None or old.reason != new.reason):
        yield Event(new.reason, new.message, warning=True)


def _refused(before: RunStatus, after: RunStatus) -> Iterator[Event]:
    old, new = find(before, ConditionType.RUNNING), find(after, ConditionType.RUNNING)
    reasons = ("ObjectRefused", "NameTaken", "ImageUnavailable", "PodNotStarted")
    if new is not None and new.reason in reasons and (old is None or old.message != new.message):
        yield Event(new.reason, new.message, warning=True)


def events(kind: str, before: RunStatus, after: RunStatus) -> list[Event]:
    """Events for the change from one status to the next, in the order in which things happened."""
    rows = (_accepted, _waiting, _lost, _queued, _attempts, _refused, _scheduling, _progressing, _phases)
    return [event for row in rows for event in row(before, after)]
