"""What the GPUs of a run were used for: held, spent on starting, lost to restarts; goodput and cost. Pure.

Time is folded into the status with a cursor, ``accruedUntil``, that moves in the same write as the sums: a pass that
is repeated after a crash, or whose write was refused, counts nothing twice. ``gpuSeconds`` is always the sum of
``startingGpuSeconds``, ``lostGpuSeconds``, ``unsavedGpuSeconds`` and what training or serving has kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from qednano.api import ConditionType, RunStatus
from qednano.api.status import Usage
from qednano_operator.conditions import find, stamp
from qednano_operator.observe import parse_time

_ACCRUE_SECONDS = 60  # GPU time is written this often while nothing changes: each write is an API call
_SAVED_EXIT = 75  # the exit code of a process that was asked to stop and has saved its state
_HOUR = 3600


def account(status: RunStatus, gpus: int, now: datetime, checkpointed: float = 0.0) -> RunStatus:
    """Add the GPU time since the last pass, at what the run held then.

    ``gpus`` is what it holds now; ``checkpointed`` is when its newest checkpoint was complete (Unix time, 0 for
    unknown), as its trainer tells. While nothing changes, time is added once a minute.
    """
    usage = status.usage or Usage()
    since = parse_time(usage.accrued_until)
    waited = (now - since).total_seconds() if since and status.gpus else 0.0
    if gpus == status.gpus and waited < _ACCRUE_SECONDS and _news(usage, checkpointed, now) is None:
        return status
    folded = _fold(status, now, checkpointed)
    return status.model_copy(update={"gpus": gpus, "usage": folded})


def after_failure(status: RunStatus, now: datetime, exit_code: int | None) -> RunStatus:
    """The status when the process that saves checkpoints has ended: what it did since the last one is lost.

    ``exit_code`` 75 says that it saved before it ended. None is a pod that is being taken away, which is given time
    to do so: that counts as saved too.
    """
    if status.usage is None:
        return status
    usage = _fold(status, now, 0.0)
    lost = 0 if exit_code in (None, _SAVED_EXIT) else usage.unsaved_gpu_seconds
    counted = {"unsaved_gpu_seconds": 0, "lost_gpu_seconds": usage.lost_gpu_seconds + lost}
    return status.model_copy(update={"usage": _told(usage.model_copy(update=counted))})


def _fold(status: RunStatus, now: datetime, checkpointed: float) -> Usage:
    usage = status.usage or Usage()
    since = parse_time(usage.accrued_until)
    seconds = max(0, int((now - since).total_seconds())) if since and status.gpus else 0
    starting = _starting_seconds(status, since, seconds) if since else 0
    unsaved = usage.unsaved_gpu_seconds + (seconds - starting) * status.gpus
    saved = _news(usage, checkpointed, now)
    if saved is not None:
        unsaved = min(unsaved, int((now - saved).total_seconds()) * status.gpus)
    counted = {
        "gpu_seconds": usage.gpu_seconds + seconds * status.gpus,
        "starting_gpu_seconds": usage.starting_gpu_seconds + starting * status.gpus,
        "unsaved_gpu_seconds": unsaved,
        "checkpointed": usage.checkpointed if saved is None else stamp(saved),
        # A clock that was set back leaves the cursor where it is, else time would be counted again.
        "accrued_until": stamp(now if since is None else max(now, since)),
    }
    return _told(usage.model_copy(update=counted))


def _news(usage: Usage, checkpointed: float, now: datetime) -> datetime | None:
    """When a checkpoint was complete that is not counted yet; None without one."""
    if checkpointed <= 0:
        return None
    saved = min(datetime.fromtimestamp(int(checkpointed), UTC), now.replace(microsecond=0))
    known = parse_time(usage.checkpointed)
    return saved if known is None or saved > known else None


def _starting_seconds(status: RunStatus, since: datetime, seconds: int) -> int:
    """Seconds after ``since``, of so many, in which not all pods ran, by the last transition of Running."""
    running = find(status, ConditionType.RUNNING)
    changed = parse_time(running.last_transition_time) if running else None
    if running is None or changed is None:
        return seconds
    before = min(max(int((changed - since).total_seconds()), 0), seconds)
    return before if running.status == "True" else seconds - before


def _told(usage: Usage) -> Usage:
    """The usage with goodput and cost as they follow from its sums."""
    total = usage.gpu_seconds
    wasted = usage.lost_gpu_seconds + usage.starting_gpu_seconds
    cost = Decimal(usage.gpu_price) * total / _HOUR if usage.gpu_price else None
    return usage.model_copy(
        update={
            "goodput": f"{1 - wasted / total:.3f}" if total else "",
            "gpu_cost": "" if cost is None else f"{cost:.2f}",
        }
    )
