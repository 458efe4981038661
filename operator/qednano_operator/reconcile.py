"""The one decision: from a run and what surrounds it to what should be done next. Pure.

The order of the steps is the policy; the first that has something to do decides:
validate, resolve and start; complete; suspend or resume; answer a failure; clear old attempts; wait for the
back-off; make what is missing; watch. A step that moves the run on returns a status and touches no object: the
intent must be stored before anything follows from it, so a crash between two calls loses nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from qednano.api import KINDS, ConditionType, RunStatus
from qednano.api.common import RunSpec
from qednano.api.status import ArtifactStatus, Attempt, RoleStatus, Usage
from qednano.plan import Lifecycle, Role
from qednano.plan import roles as plan_roles
from qednano.plan.progress import headline, listed
from qednano_operator import manifests, teardown
from qednano_operator.attempts import answer, fail, failure, is_done, role_attempt
from qednano_operator.conditions import clip, is_because, is_true, phase_of, put, stamp
from qednano_operator.decision import Decision, Defaults, Event, Object, Target, World
from qednano_operator.dependencies import resolve
from qednano_operator.evaluations import evaluate
from qednano_operator.health import MAIN_ROLE, assess, look, progress_of, spend
from qednano_operator.limits import deadline, expiry, overdue, seconds_until, stall_failure, stall_time
from qednano_operator.observe import LABEL, LastWords, Observed, observe, parse_time
from qednano_operator.subject import Subject, ignored_fields, overlay, plain, read_spec, read_status
from qednano_operator.transitions import events

_CHANGEABLE = ("StatefulSet", "Service")  # a Job's template can't change, and the configuration must not
_COMPLETING_SECONDS = 120  # a run is not kept from succeeding by a helper on a dead node for longer than this


def reconcile(run: Object, world: World, now: datetime, defaults: Defaults) -> Decision:
    """What to do for ``run`` now. Raises StatusUnreadable when its status is not this operator's."""
    status = read_status(run)
    meta = run["metadata"]
    if meta.get("deletionTimestamp"):
        return Decision(status)  # the garbage collector follows the owner references
    observed = observe(world.children, meta["uid"])
    subject = _accept(run, status, observed, now)
    if isinstance(subject, RunStatus):
        return _decide(run["kind"], status, Decision(subject))
    if status.completion_time:
        found = _finish(subject, observed)
    elif not status.start_time:
        found = _begin(subject, world, observed, defaults)
    else:
        found = _advance(subject, world, observed, defaults)
    found = evaluate(subject, world, found)
    if not is_true(found.status, ConditionType.RUNNING) and is_true(found.status, ConditionType.PROGRESSING):
        still = put(found.status, ConditionType.PROGRESSING, False, "NotRunning", "", subject.generation, now)
        found = replace(found, status=still)
    return _decide(run["kind"], status, found)


def refused(run: Object, decision: Decision, what: str, message: str, now: datetime) -> Decision:
    """The decision when the API server refuses one of its objects: the run says which one and why."""
    before = read_status(run)
    text = clip(f"{what} is refused: {message}")
    generation = int(run["metadata"].get("generation") or 0)
    status = put(decision.status, ConditionType.RUNNING, False, "ObjectRefused", text, generation, now)
    return _decide(run["kind"], before, Decision(status.model_copy(update={"message": text}), wake_after=30))


def _decide(kind: str, before: RunStatus, found: Decision) -> Decision:
    """Derive the phase, and the events that follow from what changed."""
    status = found.status.model_copy(update={"phase": phase_of(found.status)})
    return replace(found, status=status, events=(*found.events, *events(kind, before, status)))


def _started_spec(observed: Observed) -> dict[str, Any] | None:
    """The spec in the run's configuration file: what it was started with."""
    try:
        found = json.loads(observed.config or "")["spec"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _accept(run: Object, status: RunStatus, observed: Observed, now: datetime) -> Subject | RunStatus:
    """The run with a valid spec, or the status that says why there is none."""
    kind, meta = run["kind"], run["metadata"]
    generation = int(meta.get("generation") or 0)
    spec = read_spec(kind, meta["name"], run.get("spec"))
    started = _started_spec(observed) if status.start_time else None
    ignored: list[str] = []
    complaint = spec if isinstance(spec, str) else ""
    if started is not None:
        spec, ignored = _keep_started(kind, meta["name"], started, spec)
        complaint = complaint if isinstance(spec, RunSpec) else f"{meta['name']}-config can't be read: {spec}"
    if isinstance(spec, str):
        status = status.model_copy(update={"message": clip(complaint), "observed_generation": generation})
        return put(status, ConditionType.ACCEPTED, False, "InvalidSpec", complaint, generation, now)
    if complaint:
        reason, message = "InvalidChange", f"the change is ignored, since the spec is no longer valid: {complaint}"
    elif ignored:
        one = len(ignored) == 1
        reason = "FieldsIgnored"
        message = (
            f"{', '.join(ignored)} {'was' if one else 'were'} changed after the start and {'is' if one else 'are'} "
            "ignored: a started run keeps its configuration; make a new run for the new one"
        )
    else:
        reason, message = "Valid", ""
    if not status.completion_time:
        status = put(status, ConditionType.ACCEPTED, True, reason, message, generation, now)
        status = status.model_copy(update={"observed_generation": generation})
    return Subject(kind, meta["name"], meta["namespace"], meta["uid"], generation, spec, status, now)


def _keep_started(
    kind: str, name: str, started: dict[str, Any], current: RunSpec | str
) -> tuple[RunSpec | str, list[str]]:
    if isinstance(current, str):
        return read_spec(kind, name, started), []
    mutable = KINDS[kind].spec_type().mutable
    now = plain(current)
    return read_spec(kind, name, overlay(started, now, mutable)), ignored_fields(started, now, mutable)


def _begin(subject: Subject, world: World, observed: Observed, defaults: Defaults) -> Decision:
    """Before the start: wait for what the run refers to, then write down that it starts and with what."""
    status, generation, now = subject.status, subject.generation, subject.now
    if subject.spec.cancel:
        return Decision(fail(subject, "Cancelled", "cancelled before it started (spec.cancel)"))
    if subject.spec.suspend:
        text = "suspended before it started (spec.suspend)"
        status = put(status, ConditionType.SUSPENDED, True, "NotStarted", text, generation, now)
        return Decision(status.model_copy(update={"message": text}))
    if is_true(status, ConditionType.SUSPENDED):
        status = put(status, ConditionType.SUSPENDED, False, "Resumed", "", generation, now)
    found = resolve(subject.spec, subject.namespace, world.runs)
    if not found.ready:
        status = put(status, ConditionType.DEPENDENCIES_READY, False, found.reason, found.message, generation, now)
        if found.failed:
            return Decision(fail(subject.with_status(status), found.reason, found.message))
        return Decision(status.model_copy(update={"message": clip(found.message + found.detail)}))
    roles = plan_roles(subject.spec)
    planned = subject.with_status(status.model_copy(update={"attempt": 1, "inputs": list(found.inputs)}))
    taken = _taken(planned, _wanted(planned, roles, defaults), world)
    if observed.strangers:
        first = observed.strangers[0]
        taken = f"{first} of an earlier {subject.kind} {subject.name} is still there; waiting until it is gone"
    if taken:
        status = put(status, ConditionType.DEPENDENCIES_READY, False, "NameTaken", taken, generation, now)
        return Decision(status.model_copy(update={"message": clip(taken)}), wake_after=30)
    status = put(planned.status, ConditionType.DEPENDENCIES_READY, True, "Resolved", "", generation, now)
    status = put(status, ConditionType.RUNNING, False, "Starting", "", generation, now)
    return Decision(
        status.model_copy(
            update={
                "start_time": stamp(now),
                "run_dir": subject.run_dir,
                "message": "starting",
                "roles": [RoleStatus(name=role.name, desired=role.replicas, attempt=1) for role in roles],
                "usage": Usage(),
            }
        )
    )


def _taken(subject: Subject, objects: list[Object], world: World) -> str:
    """Who else has a name that this run needs, as a sentence; empty when nobody has."""
    for obj in objects:
        uid, owner = world.owners.get((obj["kind"], obj["metadata"]["name"]), (subject.uid, ""))
        if uid != subject.uid:
            what = f"{obj['kind']} {obj['metadata']['name']}"
            return f"{what} belongs to {owner}; give this {subject.kind} another name, or delete that"
    return ""


def _wanted(subject: Subject, roles: tuple[Role, ...], defaults: Defaults) -> list[Object]:
    objects = [manifests.config_map(subject), manifests.service(subject)]
    if defaults.network_policies:
        objects.append(manifests.network_policy(subject))
    for role in roles:
        objects += manifests.role_objects(subject, role, role_attempt(subject.status, role.name), defaults)
    return objects


def _advance(subject: Subject, world: World, observed: Observed, defaults: Defaults) -> Decision:
    """A started run."""
    roles = plan_roles(subject.spec)
    status = subject.status.model_copy(
        update={"progress": progress_of(subject.kind, world.reports, subject.status.progress)}
    )
    subject = subject.with_status(spend(status, world.reports))
    subject = subject.with_status(look(subject, roles, observed))
    if all(is_done(role, subject.status, observed) for role in roles if role.essential):
        return Decision(_complete(subject, observed))
    if subject.spec.cancel:
        return Decision(fail(subject, "Cancelled", "cancelled (spec.cancel); what it has saved is kept"))
    if subject.spec.suspend or _is_suspended(subject.status):
        return _suspend(subject, observed)
    late = overdue(subject)
    if late:
        return Decision(fail(subject, "DeadlineExceeded", late))
    found = failure(roles, subject, observed) or stall_failure(subject, MAIN_ROLE[subject.kind])
    if found is not None:
        return Decision(answer(subject, found))
    targets, living = teardown.old_attempts(roles, subject.status, observed)
    if living:
        text = f"waiting until {', '.join(pod.name for pod in living[:4])} of the last attempt is gone"
        status = subject.status.model_copy(update={"message": clip(text)})
        return Decision(status, delete=tuple(targets))
    retry_at = parse_time(subject.status.retry_after)
    if retry_at is not None and retry_at > subject.now:
        wait = seconds_until(subject, retry_at, deadline(subject))
        return Decision(subject.status, delete=tuple(targets), wake_after=wait)
    subject = subject.with_status(subject.status.model_copy(update={"retry_after": ""}))
    missing = _missing(subject, roles, observed, defaults)
    taken = _taken(subject, missing, world)
    if taken:
        status = subject.status.model_copy(update={"message": clip(taken)})
        status = put(status, ConditionType.RUNNING, False, "NameTaken", taken, subject.generation, subject.now)
        return Decision(status, delete=tuple(targets), wake_after=30)
    found_status = assess(subject, roles, observed)
    wake = seconds_until(subject, deadline(subject), stall_time(subject.with_status(found_status)))
    return Decision(found_status, apply=tuple(missing), delete=tuple(targets), wake_after=wake)


def _missing(subject: Subject, roles: tuple[Role, ...], observed: Observed, defaults: Defaults) -> list[Object]:
    """Objects that are absent, and those that can be changed in place and should be."""
    done = {role.name for role in roles if role.lifecycle is Lifecycle.TASK and is_done(role, subject.status, observed)}
    found = []
    for obj in _wanted(subject, roles, defaults):
        meta = obj["metadata"]
        if meta["labels"].get(LABEL + "role") in done:
            continue
        there = observed.hashes.get((obj["kind"], meta["name"]))
        outdated = obj["kind"] in _CHANGEABLE and there != meta["annotations"][LABEL + "spec-hash"]
        if there is None or outdated:
            found.append(obj)
    return found


def _is_suspended(status: RunStatus) -> bool:
    return is_true(status, ConditionType.SUSPENDED) or is_because(status, ConditionType.SUSPENDED, "Suspending")


def _suspend(subject: Subject, observed: Observed) -> Decision:
    """Suspend and resume. Once begun, suspending is finished even when the wish changes meanwhile."""
    status, generation, now = subject.status, subject.generation, subject.now
    if is_true(status, ConditionType.SUSPENDED):
        if subject.spec.suspend:
            return Decision(status, delete=tuple(teardown.everything_active(observed)))
        return Decision(_resume(subject))
    if not is_because(status, ConditionType.SUSPENDED, "Suspending"):
        text = "stopping: pods save their state and end"
        status = put(status, ConditionType.SUSPENDED, False, "Suspending", text, generation, now)
        status = put(status, ConditionType.RUNNING, False, "Suspended", "", generation, now)
        return Decision(status.model_copy(update={"message": text, "retry_after": ""}))
    if not teardown.is_quiet(observed):
        return Decision(status, delete=tuple(teardown.everything_active(observed)))
    text = "suspended (spec.suspend); its state is kept"
    ended = Attempt(number=status.attempt, reason="Suspended", message=text, counted=False, ended=stamp(now))
    status = put(status, ConditionType.SUSPENDED, True, "ByUser", text, generation, now)
    return Decision(status.model_copy(update={"message": text, "attempts": [*status.attempts, ended][-10:]}))


def _resume(subject: Subject) -> RunStatus:
    status, generation, now = subject.status, subject.generation, subject.now
    number = status.attempt + 1
    roles = [role.model_copy(update={"attempt": number}) for role in status.roles]
    status = status.model_copy(update={"attempt": number, "roles": roles, "message": f"resuming with attempt {number}"})
    status = put(status, ConditionType.SUSPENDED, False, "Resumed", "", generation, now)
    return put(status, ConditionType.RUNNING, False, "Starting", "", generation, now)


def _words(subject: Subject, observed: Observed) -> LastWords:
    role = MAIN_ROLE[subject.kind]
    for pod in observed.role_pods(role, role_attempt(subject.status, role)):
        if pod.index == 0 and pod.succeeded and pod.ended is not None:
            return pod.ended.words
    return LastWords()


def _complete(subject: Subject, observed: Observed) -> RunStatus:
    """The main role is done: keep what it made; helpers go in the next pass."""
    status, words = subject.status, _words(subject, observed)
    uri = words.artifact.uri if words.artifact else f"{subject.run_dir}/artifact"
    digest = words.artifact.digest if words.artifact else ""
    update: dict[str, Any] = {
        "artifact": ArtifactStatus(uri=uri, digest=digest, manifest=f"{uri}/manifest.json"),
        "completion_time": stamp(subject.now),
        "retry_after": "",
        "message": clip(words.message),
    }
    if status.progress is not None:
        progress = status.progress
        metrics = {name: number for name, text in words.metrics.items() if (number := _number(text)) is not None}
        known = {item.name: float(item.value) for item in progress.metrics}
        update["progress"] = progress.model_copy(
            update={
                "metrics": listed(known | metrics),
                "headline": headline(subject.kind, metrics) or progress.headline,
                "eta_seconds": 0,
                "step": progress.total if progress.total is not None else progress.step,
            }
        )
    status = status.model_copy(update=update)
    status = put(status, ConditionType.RUNNING, False, "Completed", "", subject.generation, subject.now)
    return put(status, ConditionType.SUCCEEDED, False, "Completing", "", subject.generation, subject.now)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e30 else None


def _finish(subject: Subject, observed: Observed) -> Decision:
    """After the end: take down what still runs, then say that the run has succeeded."""
    status = look(subject, plan_roles(subject.spec), observed)
    quiet = teardown.is_quiet(observed)
    targets = teardown.everything_active(observed)
    if quiet:
        targets += teardown.network(subject.name, observed)
    if not is_because(status, ConditionType.SUCCEEDED, "Completing"):
        return _expire(subject.with_status(status), targets)
    since = parse_time(status.completion_time)
    age = (subject.now - since).total_seconds() if since else 0.0
    if not quiet and age < _COMPLETING_SECONDS:
        return Decision(status, delete=tuple(targets), wake_after=_COMPLETING_SECONDS - age)
    status = put(status, ConditionType.SUCCEEDED, True, "Completed", status.message, subject.generation, subject.now)
    return Decision(status, delete=tuple(targets))


def _expire(subject: Subject, targets: list[Target]) -> Decision:
    """An ended run: nothing more to do but to delete it once its time is over."""
    end = expiry(subject)
    if end is not None and subject.now >= end and not targets:
        return Decision(subject.status, delete=(Target(subject.kind, subject.name, subject.uid),))
    return Decision(subject.status, delete=tuple(targets), wake_after=seconds_until(subject, end))


__all__ = ["Decision", "Defaults", "Event", "World", "reconcile"]
