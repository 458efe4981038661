"""Conditions, and the phase that follows from them (never the other way round)."""

from __future__ import annotations

from datetime import datetime

from qednano.api import ConditionType, Phase, RunStatus
from qednano.api.status import Condition

_TEXT, _CONDITION_TEXT, _REASON = 1024, 512, 128


def clip(text: str, limit: int = _TEXT) -> str:
    """``text`` cut to what the API takes."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def stamp(now: datetime) -> str:
    """A time as Kubernetes writes it: UTC, seconds."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def find(status: RunStatus, kind: ConditionType) -> Condition | None:
    """The condition of that type, if it is there."""
    return next((condition for condition in status.conditions if condition.type == kind), None)


def is_true(status: RunStatus, kind: ConditionType) -> bool:
    """Whether the condition is there and True."""
    condition = find(status, kind)
    return condition is not None and condition.status == "True"


def is_false(status: RunStatus, kind: ConditionType) -> bool:
    """Whether the condition is there and False."""
    condition = find(status, kind)
    return condition is not None and condition.status == "False"


def is_because(status: RunStatus, kind: ConditionType, reason: str) -> bool:
    """Whether the condition is there with that reason."""
    condition = find(status, kind)
    return condition is not None and condition.reason == reason


def put(
    status: RunStatus, kind: ConditionType, value: bool, reason: str, message: str, generation: int, now: datetime
) -> RunStatus:
    """Set one condition; its transition time moves only when its status does."""
    text = "True" if value else "False"
    old = find(status, kind)
    since = old.last_transition_time if old is not None and old.status == text else stamp(now)
    new = Condition.model_validate(
        {
            "type": kind,
            "status": text,
            "reason": clip(reason, _REASON),
            "message": clip(message, _CONDITION_TEXT),
            "observedGeneration": generation,
            "lastTransitionTime": since,
        }
    )
    others = [condition for condition in status.conditions if condition.type != kind]
    order = list(ConditionType)
    conditions = sorted([*others, new], key=lambda condition: order.index(condition.type))
    return status.model_copy(update={"conditions": conditions})


def phase_of(status: RunStatus) -> Phase:
    """Where a run with these conditions is; the first row that fits decides."""
    rows = (
        (Phase.FAILED, is_true(status, ConditionType.FAILED)),
        (Phase.SUCCEEDED, is_true(status, ConditionType.SUCCEEDED)),
        (Phase.COMPLETING, is_because(status, ConditionType.SUCCEEDED, "Completing")),
        (Phase.SUSPENDED, is_true(status, ConditionType.SUSPENDED)),
        (Phase.SUSPENDING, is_because(status, ConditionType.SUSPENDED, "Suspending")),
        (Phase.PENDING, not is_true(status, ConditionType.ACCEPTED)),
        (Phase.WAITING, not is_true(status, ConditionType.DEPENDENCIES_READY)),
        (Phase.QUEUED, is_false(status, ConditionType.QUOTA_RESERVED)),
        (Phase.RUNNING, is_true(status, ConditionType.RUNNING)),
        (Phase.RESTARTING, is_because(status, ConditionType.RUNNING, "Restarting")),
    )
    return next((phase for phase, fits in rows if fits), Phase.STARTING)
