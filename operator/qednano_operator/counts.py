"""What the metrics say of runs: their phases, the time in each, restarts, use of GPUs, and passes that failed.

A change of a run is counted after its write has succeeded, so that a pass that is repeated counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prometheus_client import Counter

from qednano.api import RunStatus
from qednano.api.status import Usage
from qednano.plan import REASONS
from qednano_operator import metrics
from qednano_operator.attempts import began_again
from qednano_operator.cache import Key
from qednano_operator.kube import ApiError, Conflict, NotFound, Throttled
from qednano_operator.limits import held_reason
from qednano_operator.observe import DISRUPTIONS, parse_time
from qednano_operator.subject import StatusUnreadable

_USED: tuple[tuple[Counter, Callable[[Usage], float]], ...] = (
    (metrics.GPU_SECONDS, lambda usage: usage.gpu_seconds),
    (metrics.STARTING_GPU_SECONDS, lambda usage: usage.starting_gpu_seconds),
    (metrics.LOST_GPU_SECONDS, lambda usage: usage.lost_gpu_seconds),
    (metrics.GPU_COST, lambda usage: float(usage.gpu_cost or 0)),
)

_OF_OPERATOR = {"PodLost", "ServerKeepsFailing", "Stalled", "Suspended", "WorkloadGone"}
_OF_KUEUE = {"Preempted", "PodsReadyTimeout", "AdmissionCheck", "ClusterQueueStopped", "LocalQueueStopped"}
_KNOWN = REASONS | _OF_OPERATOR | DISRUPTIONS | _OF_KUEUE | {"Deactivated", "NodeFailures"}


def known_reason(reason: str) -> str:
    """The reason as a label: others' words, which nothing bounds, are Other."""
    return reason if reason in _KNOWN else "Other"


def error_reason(error: Exception) -> str:
    """Why a pass failed, as a label."""
    match error:
        case Conflict():
            return "Conflict"  # the object has changed meanwhile: the pass is repeated
        case NotFound():
            return "NotFound"
        case Throttled():
            return "Throttled"
        case StatusUnreadable():
            return "StatusUnreadable"
        case ApiError(status=0):
            return "Unreachable"
        case ApiError(status=401 | 403):
            return "Forbidden"
        case ApiError(status=status):
            return "ServerError" if status >= 500 else "Refused"
    return "Unexpected"


class Counts:
    """Remembers what each run was last counted as."""

    def __init__(self) -> None:
        self._phases: dict[Key, str] = {}
        self._held: dict[Key, str] = {}

    def seen(self, key: Key, status: RunStatus) -> None:
        """The run is in this phase."""
        self._hold(key, held_reason(status))
        old, new = self._phases.get(key), status.phase.value if status.phase else "Pending"
        if old == new:
            return
        if old is not None:
            metrics.RUNS.labels(key[0], old).dec()
        metrics.RUNS.labels(key[0], new).inc()
        self._phases[key] = new

    def moved(self, key: Key, before: RunStatus, after: RunStatus, now: datetime) -> None:
        """The run's status was written at ``now``: what it was, and what it is."""
        kind, namespace, _ = key
        self.seen(key, after)
        if after.phase is not before.phase and after.phase is not None:
            _moved(kind, before, after, now)
        if began_again(before, after):
            metrics.RESTARTS.labels(kind, known_reason(after.attempts[-1].reason)).inc()
        old, new = before.usage or Usage(), after.usage or Usage()
        if new != old and new.gpu_seconds:
            for counter, total in _USED:  # all of them, also by 0: a ratio of series needs each to be there
                counter.labels(namespace, kind).inc(max(0.0, total(new) - total(old)))

    def forget(self, key: Key) -> None:
        """The run is gone."""
        self._hold(key, "")
        old = self._phases.pop(key, None)
        if old is not None:
            metrics.RUNS.labels(key[0], old).dec()

    def failed(self, key: Key, error: Exception) -> None:
        """A pass over the run ended with an error."""
        metrics.ERRORS.labels(key[0], error_reason(error)).inc()

    def refused(self, key: Key) -> None:
        """The API server does not take an object of the run."""
        metrics.ERRORS.labels(key[0], "ObjectRefused").inc()

    def _hold(self, key: Key, reason: str) -> None:
        old = self._held.get(key, "")
        if old == reason:
            return
        if old:
            metrics.NOT_PROGRESSING.labels(key[0], old).dec()
            del self._held[key]
        if reason:
            metrics.NOT_PROGRESSING.labels(key[0], reason).inc()
            self._held[key] = reason


def _moved(kind: str, before: RunStatus, after: RunStatus, now: datetime) -> None:
    assert after.phase is not None
    metrics.TRANSITIONS.labels(kind, after.phase.value).inc()
    entered, left = parse_time(before.phase_since), parse_time(after.phase_since)
    if before.phase is not None and entered is not None and left is not None:
        metrics.PHASE_SECONDS.labels(kind, before.phase.value).observe(max(0.0, (left - entered).total_seconds()))
    start = parse_time(after.start_time)
    if after.phase == "Running" and after.attempt == 1 and start is not None:
        metrics.STARTUP_SECONDS.labels(kind).observe((now - start).total_seconds())
