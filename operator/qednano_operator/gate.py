"""Whether a run's pods may be made now: quota of the namespace, and the queue that it waits in. Pure.

The condition QuotaReserved tells it. True: go on. False: no pod is made, and those that are there are stopped first,
as in a suspension; the run goes on by itself as its next attempt once the quota is there again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qednano.api import ConditionType, RunStatus
from qednano.api.status import Attempt
from qednano.plan import Role
from qednano_operator import kueue, teardown
from qednano_operator.attempts import remembered
from qednano_operator.conditions import clip, find, is_false, is_true, put, stamp
from qednano_operator.decision import Decision, Defaults, Object, StatusPatch, World
from qednano_operator.observe import LABEL, Observed, parse_time
from qednano_operator.quota import pods_of, shortages
from qednano_operator.subject import Subject

_SETTLED = 5.0  # seconds that controllers and watches take to show pods that were allowed


@dataclass(frozen=True)
class Passed:
    """The pods may be made: of these roles, for this subject (with its admission)."""

    subject: Subject
    roles: tuple[Role, ...]
    workload: kueue.Workload | None = None
    told: str = ""  # what is held back all the same

    def after(self, status: RunStatus) -> tuple[RunStatus, tuple[StatusPatch, ...]]:
        """The status of the run that was let pass, with what is held back, and what Kueue is told of it."""
        if self.workload is None:
            return status, ()
        subject = self.subject
        status = put(status, ConditionType.QUOTA_RESERVED, True, "Admitted", self.told, subject.generation, subject.now)
        runs = is_true(status, ConditionType.RUNNING)
        return status, kueue.ready(self.workload, subject.now) if runs else ()


def _closed(subject: Subject, reason: str, message: str) -> RunStatus:
    status = put(subject.status, ConditionType.QUOTA_RESERVED, False, reason, message, subject.generation, subject.now)
    return status.model_copy(update={"message": clip(message)})


def short(subject: Subject, objects: Sequence[Object], world: World) -> Decision | None:
    """The decision to wait while a ResourceQuota of the namespace has no room for the objects; None when all have."""
    said = shortages(objects, world.quotas)
    if not said:
        return None
    message = "; ".join(said)
    return Decision(_closed(subject, "QuotaExceeded", message))


def starved(
    subject: Subject, objects: Sequence[Object], observed: Observed, world: World
) -> tuple[RunStatus, float | None]:
    """The status of a run that starts, saying which quota keeps pods from being made, and when to look again.

    The objects are there and the API server refuses their pods: another run was faster. Quotas are watched.
    """
    status, absent = subject.status, []
    for obj in objects:
        labels = obj["metadata"]["labels"]
        _, count = pods_of(obj)
        there = [
            pod
            for pod in observed.role_pods(labels.get(LABEL + "role", ""))
            if obj["kind"] == "StatefulSet"
            or (
                str(pod.attempt) == labels.get(LABEL + "attempt")
                and labels.get(LABEL + "index") in (None, str(pod.index))
            )
        ]
        if count > len(there):
            absent.append(_of_size(obj, count - len(there)))
    running = find(status, ConditionType.RUNNING)
    since = parse_time(running.last_transition_time) if running is not None and running.status == "False" else None
    if not absent or since is None:
        return status, None
    if (subject.now - since).total_seconds() < _SETTLED:
        return status, _SETTLED
    said = "; ".join(shortages(absent, world.quotas))
    if not said:
        return status, None
    status = put(status, ConditionType.SCHEDULED, False, "QuotaExceeded", said, subject.generation, subject.now)
    return status.model_copy(update={"message": clip(f"pods can't be made: {said}")}), None


def _of_size(obj: Object, count: int) -> Object:
    if obj["kind"] == "JobSet":
        return {**obj, "spec": {**obj["spec"], "replicatedJobs": obj["spec"]["replicatedJobs"][:count]}}
    if obj["kind"] == "StatefulSet":
        return {**obj, "spec": {**obj["spec"], "replicas": count}}
    return obj


def is_held(status: RunStatus) -> bool:
    """Whether the run waits for quota."""
    return is_false(status, ConditionType.QUOTA_RESERVED)


def opened(subject: Subject) -> RunStatus:
    """The status of a run that has what it waited for."""
    status = subject.status
    queued = bool(subject.spec.scheduling.queue_name)
    if not queued and not is_held(status):
        return status
    reason = "Admitted" if queued else "WithinQuota"
    return put(status, ConditionType.QUOTA_RESERVED, True, reason, "", subject.generation, subject.now)


def queue(
    subject: Subject, roles: tuple[Role, ...], observed: Observed, world: World, defaults: Defaults
) -> Decision | Passed:
    """One step of the handshake with Kueue, or leave to go on. A run without a queue has it at once."""
    name = subject.spec.scheduling.queue_name
    if not name:
        return Passed(subject, roles)
    if not world.kueue:
        message = (
            f"spec.scheduling.queueName is {name}, but this operator does not speak with Kueue: install Kueue and set "
            "the chart's kueue.enabled, or leave queueName out"
        )
        return Decision(_closed(subject, "KueueAbsent", message))
    found = kueue.find(world.children, subject.uid)
    if found is not None and found.admitted:
        return _admitted(subject, roles, found, world)
    if is_true(subject.status, ConditionType.QUOTA_RESERVED):
        return Decision(_evicted(subject, found))
    if not teardown.is_quiet(observed):
        return Decision(subject.status, delete=tuple(teardown.everything_active(observed)))
    if found is not None and (given_back := kueue.released(found, subject.now)):
        return Decision(subject.status, patch=given_back)
    return _pending(subject, roles, found, world, defaults)


def _admitted(subject: Subject, roles: tuple[Role, ...], found: kueue.Workload, world: World) -> Decision | Passed:
    assigned = kueue.assigned(found, world.flavors)
    if isinstance(assigned, str):
        message = f"admitted with ResourceFlavor {assigned}, which is not there; waiting for it"
        return Decision(_closed(subject, "FlavorUnknown", message))
    kept, told = kueue.within_quota(roles, found)
    return Passed(replace(subject, assigned=assigned), kept, found, told)


def _evicted(subject: Subject, found: kueue.Workload | None) -> RunStatus:
    """The intent to stop: the pods go in the passes that follow."""
    condition = found.says("Evicted") if found else None
    reason = str(condition.get("reason") or "Evicted") if condition else "WorkloadGone"
    why = str(condition.get("message") or reason) if condition else "its Workload was deleted or lost its admission"
    message = f"evicted by Kueue ({reason}): {why}; pods save their state and end"
    status = _closed(subject, reason, message)
    ended = Attempt(
        number=status.attempt, reason=clip(reason, 253), message=clip(why, 400), counted=False, ended=stamp(subject.now)
    )
    status = status.model_copy(update={"attempts": remembered(status, ended), "retry_after": ""})
    return put(status, ConditionType.RUNNING, False, "Queued", "", subject.generation, subject.now)


def _pending(
    subject: Subject, roles: tuple[Role, ...], found: kueue.Workload | None, world: World, defaults: Defaults
) -> Decision:
    name = subject.spec.scheduling.queue_name
    try:
        wanted = kueue.workload(subject, roles, world.priorities, defaults, f"{kueue.GROUP}/{world.kueue}")
    except ValueError as error:
        return Decision(_closed(subject, "TooManyRoles", str(error)))
    said = f": {kueue.waiting(found)}" if found and kueue.waiting(found) else ""
    status = _closed(subject, "Pending", f"waits for quota in LocalQueue {name}{said}")
    if found is None:
        return Decision(status, apply=(wanted,))
    if found.spec_hash != wanted["metadata"]["annotations"][LABEL + "spec-hash"]:
        return Decision(status, delete=kueue.deleted(found))  # the wish has changed: ask anew in the next pass
    return Decision(status)


def next_attempt(status: RunStatus) -> RunStatus:
    """The attempt that follows an eviction or a suspension; the same one when the current has not ended."""
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.number < status.attempt:
        return status
    number = status.attempt + 1
    roles = [role.model_copy(update={"attempt": number, "ready": 0}) for role in status.roles]
    return status.model_copy(update={"attempt": number, "roles": roles, "message": f"admitted again, attempt {number}"})
