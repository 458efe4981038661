"""Restart decisions: which role failed and why, and what that makes of the run.

Intent comes first: the next attempt is in the status before anything of the old one is deleted, and nothing
new is made until every pod of the old one is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from qednano.api import ConditionType, RunStatus
from qednano.api.status import Attempt, RoleStatus
from qednano.plan import Action, Lifecycle, Role, Verdict, backoff_seconds
from qednano_operator.conditions import clip, put, stamp
from qednano_operator.decision import Question
from qednano_operator.observe import Observed, Pod, parse_time
from qednano_operator.subject import Subject

_KEPT = 10  # attempts remembered in the status
_ATTEMPT_TEXT = 400  # characters kept of why an attempt ended: ten of them share the status with all else
_QUICK = 60  # seconds; an uncounted restart that follows an end sooner than this waits too


@dataclass(frozen=True)
class Failure:
    """A role's end that the run has to answer."""

    role: str
    verdict: Verdict
    message: str
    exit_code: int | None = None


def role_status(status: RunStatus, role: str) -> RoleStatus:
    """The role's status, empty when it has none yet."""
    return next((item for item in status.roles if item.name == role), RoleStatus(name=role))


def role_attempt(status: RunStatus, role: str) -> int:
    """The attempt the role's pods should belong to."""
    return role_status(status, role).attempt or status.attempt


def done(role: Role, status: RunStatus, observed: Observed) -> set[int]:
    """Indices of a task role whose pods have ended well.

    A Job may say so before its pod is seen to have ended, as they are told by different watches: then the pod is waited
    for, since its last words say what the run made. One that was never seen is asked for (``unseen``).
    """
    attempt = role_attempt(status, role.name)
    pods = observed.role_pods(role.name, attempt)
    running = {pod.index for pod in pods if pod.active and not pod.terminating}
    known = {pod.index for pod in pods}
    found = {
        work.index
        for work in observed.role_works(role.name, attempt)
        if work.complete and work.index not in running and (work.asked or work.index in known)
    }
    return found | {pod.index for pod in pods if pod.succeeded}


def is_done(role: Role, status: RunStatus, observed: Observed) -> bool:
    """Whether every pod of a task role has ended well."""
    return done(role, status, observed) >= set(range(role.replicas))


def unseen(roles: tuple[Role, ...], status: RunStatus, observed: Observed) -> tuple[Question, ...]:
    """What has ended while its pods are not to be seen: either they are gone, or their watch is behind.

    Which of both decides whether a failure counts and what the run made, so nothing is concluded before the API server
    was asked.
    """
    found = []
    for role in roles:
        if role.lifecycle is Lifecycle.SERVER:
            continue
        attempt = role_attempt(status, role.name)
        known = {pod.index for pod in observed.role_pods(role.name, attempt)}
        ended = [
            work.uid
            for work in observed.role_works(role.name, attempt)
            if (work.complete or work.failed) and not work.asked and work.index not in known
        ]
        ended += [
            gang.uid for gang in observed.role_sets(role.name, attempt) if gang.failed and not gang.asked and not known
        ]
        if ended:
            found.append(Question(frozenset(ended), role.name, attempt))
    return tuple(found)


def _of_pod(pod: Pod, verdict: Verdict) -> Failure:
    return Failure(pod.role, verdict, pod.explanation(), pod.ended.code if pod.ended else None)


def _task_failure(role: Role, attempt: int, observed: Observed) -> Failure | None:
    pods = observed.role_pods(role.name, attempt)
    running = {pod.index for pod in pods if pod.active and not pod.failed}
    failed = [(pod, pod.verdict()) for pod in pods if pod.failed]
    # A fenced pod has a successor as a rule; without one the role would hang.
    judged = [
        (pod, Verdict(Action.RESTART, verdict.reason) if verdict.action is Action.IGNORE else verdict)
        for pod, verdict in failed
        if verdict.action is not Action.IGNORE or pod.index not in running
    ]
    for pod, verdict in judged:
        if verdict.action is Action.FAIL:
            return _of_pod(pod, verdict)
    if judged:
        # In a gang the first failure is the cause; later ones are echoes of the broken collective.
        pod, verdict = min(judged, key=lambda item: (item[0].ended.finished if item[0].ended else "", item[0].index))
        return _of_pod(pod, verdict)
    for pod in pods:
        if pod.terminating and not pod.succeeded:
            message = f"pod {pod.name} is being taken away ({pod.reason or 'deleted or evicted'})"
            return Failure(role.name, Verdict(Action.RESUME, "Disrupted"), message)
    known = {pod.index for pod in pods}
    for work in observed.role_works(role.name, attempt):
        if work.failed and work.asked and work.index not in known:
            return Failure(role.name, Verdict(Action.RESUME, "PodLost"), f"the pod of Job {work.name} was lost")
    for gang in observed.role_sets(role.name, attempt):
        if gang.failed and gang.asked and not pods:
            return Failure(role.name, Verdict(Action.RESUME, "PodLost"), f"JobSet {gang.name} failed: {gang.failed}")
    return None


def _server_failure(role: Role, observed: Observed, most: int) -> Failure | None:
    for pod in observed.role_pods(role.name):
        ended = pod.ended or pod.last_ended
        if ended is None or ended.code is None or pod.terminating:
            continue
        judged = Pod(**{**pod.__dict__, "ended": ended})
        verdict = judged.verdict()
        if verdict.action is Action.FAIL:
            return _of_pod(judged, verdict)
        if pod.restarts > most and not pod.ready:
            message = f"server {pod.name} failed {pod.restarts} times, last: {judged.explanation()}"
            return Failure(role.name, Verdict(Action.FAIL, "ServerKeepsFailing"), message, ended.code)
    return None


def failure(roles: tuple[Role, ...], subject: Subject, observed: Observed) -> Failure | None:
    """The failure to answer now: one that ends the run before one that can be retried."""
    found = []
    for role in roles:
        if role.lifecycle is Lifecycle.SERVER:
            item = _server_failure(role, observed, subject.spec.restart.max_restarts)
        elif is_done(role, subject.status, observed):
            item = None
        else:
            item = _task_failure(role, role_attempt(subject.status, role.name), observed)
        if item is not None:
            found.append(item)
    return next((item for item in found if item.verdict.action is Action.FAIL), found[0] if found else None)


def remembered(status: RunStatus, ended: Attempt) -> list[Attempt]:
    """The attempts that the status tells of, with the one that has just ended; the oldest ones are forgotten."""
    return [*status.attempts, ended][-_KEPT:]


def _record(subject: Subject, item: Failure) -> list[Attempt]:
    attempt = Attempt(
        number=role_attempt(subject.status, item.role),
        reason=clip(item.verdict.reason, 253),
        message=clip(item.message, _ATTEMPT_TEXT),
        role=item.role,
        exit_code=item.exit_code,
        counted=item.verdict.counted,
        ended=stamp(subject.now),
    )
    return remembered(subject.status, attempt)


def _wait_seconds(subject: Subject, item: Failure, counted: int) -> int:
    restart = subject.spec.restart
    if item.verdict.counted:
        return backoff_seconds(restart, counted)
    last = parse_time(subject.status.attempts[-1].ended) if subject.status.attempts else None
    again_soon = last is not None and (subject.now - last).total_seconds() < _QUICK
    return max(restart.backoff_seconds, 5) if again_soon else 0


def longest_wait(subject: Subject) -> int:
    """The longest wait before an attempt that the run's policy knows, in seconds."""
    restart = subject.spec.restart
    return max(restart.backoff_seconds, restart.max_backoff_seconds, 5)


def fail(subject: Subject, reason: str, message: str, attempts: list[Attempt] | None = None) -> RunStatus:
    """The run has failed for good."""
    status = subject.status
    status = status.model_copy(
        update={
            "attempts": status.attempts if attempts is None else attempts,
            "completion_time": stamp(subject.now),
            "retry_after": "",
            "message": clip(message),
        }
    )
    status = put(status, ConditionType.RUNNING, False, reason, "", subject.generation, subject.now)
    return put(status, ConditionType.FAILED, True, reason, message, subject.generation, subject.now)


def answer(subject: Subject, item: Failure) -> RunStatus:
    """The status after a failure: failed for good, or the next attempt as an intent."""
    status = subject.status
    attempts = _record(subject, item)
    if item.verdict.action is Action.FAIL:
        return fail(subject, item.verdict.reason, item.message, attempts)
    counted = status.counted_restarts + (1 if item.verdict.counted else 0)
    most = subject.spec.restart.max_restarts
    if item.verdict.counted and counted > most:
        told = f"{item.role} failed again after {most} restarts (spec.restart.maxRestarts), last: {item.message}"
        return fail(subject, item.verdict.reason, told, attempts)
    wait = _wait_seconds(subject, item, counted)
    number = status.attempt + 1
    roles = [
        role.model_copy(update={"attempt": number, "restarts": role.restarts + 1, "ready": 0})
        if role.name == item.role
        else role
        for role in status.roles
    ]
    retry_after = stamp(subject.now + timedelta(seconds=wait + 1)) if wait else ""
    later = f"; attempt {number} starts in {wait} s" if wait else f"; attempt {number} starts"
    message = clip(f"{item.role} ended ({item.verdict.reason}): {item.message}", 900) + later
    status = status.model_copy(
        update={
            "attempt": number,
            "counted_restarts": counted,
            "retry_after": retry_after,
            "roles": roles,
            "attempts": attempts,
            "message": clip(message),
        }
    )
    return put(status, ConditionType.RUNNING, False, "Restarting", message, subject.generation, subject.now)


def began_again(before: RunStatus, after: RunStatus) -> bool:
    """Whether the change of status began another attempt after one had ended."""
    return after.attempt > before.attempt > 0 and bool(after.attempts)
