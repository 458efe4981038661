"""The one decision: from a run and what surrounds it to what should be done next. Pure.

The order of the steps is the policy; the first that has something to do decides:
validate, resolve and start; complete; suspend or resume; answer a failure; clear old attempts; wait for the
back-off; make what is missing; watch. A step that moves the run on returns a status and touches no object: the
intent must be stored before anything follows from it, so a crash between two calls loses nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from qednano.api import KINDS, ConditionType, RunStatus
from qednano.api.common import RunSpec
from qednano.api.status import ArtifactStatus, Attempt, ProfileStatus, RoleStatus, Usage
from qednano.errors import ConfigError
from qednano.plan import Lifecycle, Role
from qednano.plan import roles as plan_roles
from qednano.plan.progress import headline, listed
from qednano_operator import gate, images, kueue, lineage, manifests, retention, teardown
from qednano_operator.attempts import answer, fail, failure, is_done, longest_wait, role_attempt, unseen
from qednano_operator.conditions import clip, find, is_because, is_true, phase_of, put, stamp
from qednano_operator.decision import Decision, Defaults, Event, Object, Target, World
from qednano_operator.dependencies import resolve
from qednano_operator.evaluations import evaluate
from qednano_operator.gate import Passed
from qednano_operator.health import MAIN_ROLE, assess, look, progress_of, spend
from qednano_operator.limits import deadline, expiry, overdue, seconds_until, stall_failure, stall_time
from qednano_operator.observe import LABEL, LastWords, Observed, Work, observe, parse_time
from qednano_operator.profiles import choose
from qednano_operator.subject import Subject, ignored_fields, overlay, plain, read_spec, read_status
from qednano_operator.transitions import events
from qednano_operator.usage import after_failure

_CHANGEABLE = ("StatefulSet", "Service")  # a Job's template can't change, and the configuration must not
_COMPLETING_SECONDS = 120  # a run is not kept from succeeding by a helper on a dead node for longer than this
_LONGEST_SLEEP = 3600.0  # seconds: the clock may be set meanwhile, and a look at a run that waits costs no API call


def reconcile(run: Object, world: World, now: datetime, defaults: Defaults) -> Decision:
    """What to do for ``run`` now. Raises StatusUnreadable when its status is not this operator's."""
    status = read_status(run)
    meta = run["metadata"]
    observed = observe(world.children, meta["uid"], world.asked)
    if meta.get("deletionTimestamp"):
        return _awake(_without_lost(retention.leave(run, status, world, now, defaults), observed, now))
    subject = _accept(run, status, observed, now, defaults)
    if isinstance(subject, RunStatus):
        return _decide(run["kind"], status, Decision(subject), now)
    finalizers = retention.guard(run, subject.written)
    if finalizers is not None:
        return Decision(status, finalizers=finalizers)
    if status.completion_time:
        found = _finish(subject, world, observed)
    elif not status.start_time:
        found = _begin(subject, world, observed, defaults)
    else:
        unknown = unseen(plan_roles(subject.spec), status, observed)
        if unknown:
            return Decision(status, ask=unknown)
        found = _advance(subject, world, observed, defaults)
    found = evaluate(subject, world, found)
    if subject.status.start_time:
        found = replace(found, status=lineage.told(subject, world, found.status))
    if not is_true(found.status, ConditionType.RUNNING) and is_true(found.status, ConditionType.PROGRESSING):
        still = put(found.status, ConditionType.PROGRESSING, False, "NotRunning", "", subject.generation, now)
        found = replace(found, status=still)
    return _decide(run["kind"], status, _without_lost(found, observed, now), now)


def _without_lost(found: Decision, observed: Observed, now: datetime) -> Decision:
    """The decision, and the end of pods that a dead node holds."""
    late, next_in = teardown.overdue(observed, now)
    waits = [wait for wait in (found.wake_after, next_in) if wait is not None]
    return replace(found, delete=(*found.delete, *teardown.forced(late)), wake_after=min(waits, default=None))


def refused(run: Object, decision: Decision, what: str, message: str, now: datetime) -> Decision:
    """The decision when the API server refuses one of its objects: the run says which one and why."""
    before = read_status(run)
    text = clip(f"{what} is refused: {message}")
    if run["metadata"].get("deletionTimestamp"):
        return retention.refused(run, before, text)
    generation = int(run["metadata"].get("generation") or 0)
    status = put(decision.status, ConditionType.RUNNING, False, "ObjectRefused", text, generation, now)
    waits = Decision(status.model_copy(update={"message": text}), wake_after=30)
    return _decide(run["kind"], before, waits, now)


def _decide(kind: str, before: RunStatus, found: Decision, now: datetime) -> Decision:
    """Derive the phase, and the events that follow from what changed."""
    phase = phase_of(found.status)
    since = before.phase_since if phase is before.phase else stamp(now)
    status = found.status.model_copy(update={"phase": phase, "phase_since": since})
    return _awake(replace(found, status=status, events=(*found.events, *events(kind, before, status))))


def _awake(found: Decision) -> Decision:
    return found if found.wake_after is None else replace(found, wake_after=min(found.wake_after, _LONGEST_SLEEP))


def _started_spec(observed: Observed) -> dict[str, Any] | None:
    """The spec in the run's configuration file: what it was started with."""
    try:
        found = json.loads(observed.config or "")["spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _accept(
    run: Object, status: RunStatus, observed: Observed, now: datetime, defaults: Defaults
) -> Subject | RunStatus:
    """The run with a valid spec, or the status that says why there is none."""
    kind, meta = run["kind"], run["metadata"]
    generation = int(meta.get("generation") or 0)
    spec = read_spec(kind, meta["name"], run.get("spec"))
    started = _started_spec(observed) if status.start_time else None
    ignored: list[str] = []
    complaint = spec if isinstance(spec, str) else ""
    if started is not None:
        if status.images is not None:
            started = {**started, "images": status.images.model_dump(mode="json", by_alias=True)}
        spec, ignored = _keep_started(kind, meta["name"], started, spec, status)
        complaint = complaint if isinstance(spec, RunSpec) else f"{meta['name']}-config can't be read: {spec}"
    if isinstance(spec, str):
        return _not_accepted(status, "InvalidSpec", complaint, generation, now)
    try:
        whole, chosen = choose(spec, observed.profile, defaults.profiles)
    except ConfigError as error:
        return _not_accepted(status, "ProfileUnusable", str(error), generation, now)
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
        told = ProfileStatus(name=chosen.name, digest=chosen.digest) if chosen else None
        status = status.model_copy(update={"observed_generation": generation, "profile": told})
    identity = kind, meta["name"], meta["namespace"], meta["uid"], generation
    return Subject(*identity, spec=whole, written=spec, chosen=chosen, status=status, now=now)


def _not_accepted(status: RunStatus, reason: str, complaint: str, generation: int, now: datetime) -> RunStatus:
    status = status.model_copy(update={"message": clip(complaint), "observed_generation": generation})
    return put(status, ConditionType.ACCEPTED, False, reason, complaint, generation, now)


def _keep_started(
    kind: str, name: str, started: dict[str, Any], current: RunSpec | str, status: RunStatus
) -> tuple[RunSpec | str, list[str]]:
    if isinstance(current, str):
        return read_spec(kind, name, started), []
    running = find(status, ConditionType.RUNNING)
    mutable = KINDS[kind].spec_type().mutable_while(running.reason if running else "")
    now = plain(current)
    return read_spec(kind, name, overlay(started, now, mutable)), ignored_fields(started, now, mutable)


def _begin(subject: Subject, world: World, observed: Observed, defaults: Defaults) -> Decision:
    """Before the start: wait for what the run refers to, then write down that it starts and with what."""
    status, generation, now = subject.status, subject.generation, subject.now
    queued = kueue.deleted(kueue.find(world.children, subject.uid))  # what can't start yet takes no quota
    if subject.spec.cancel:
        return Decision(fail(subject, "Cancelled", "cancelled before it started (spec.cancel)"))
    if subject.spec.suspend:
        text = "suspended before it started (spec.suspend)"
        status = put(status, ConditionType.SUSPENDED, True, "NotStarted", text, generation, now)
        return Decision(status.model_copy(update={"message": text}), delete=queued)
    if is_true(status, ConditionType.SUSPENDED):
        status = put(status, ConditionType.SUSPENDED, False, "Resumed", "", generation, now)
    found = resolve(subject.spec, subject.namespace, world.runs)
    if not found.ready:
        status = put(status, ConditionType.DEPENDENCIES_READY, False, found.reason, found.message, generation, now)
        if found.failed:
            return Decision(fail(subject.with_status(status), found.reason, found.message))
        return Decision(status.model_copy(update={"message": clip(found.message + found.detail)}), delete=queued)
    roles = plan_roles(subject.spec)
    planned = subject.with_status(status.model_copy(update={"attempt": 1, "inputs": list(found.inputs)}))
    wanted = _wanted(planned, roles, defaults)
    taken = _taken(planned, wanted, world)
    if observed.strangers:
        first = observed.strangers[0]
        taken = f"{first} of an earlier {subject.kind} {subject.name} is still there; waiting until it is gone"
    if taken:
        status = put(status, ConditionType.DEPENDENCIES_READY, False, "NameTaken", taken, generation, now)
        return Decision(status.model_copy(update={"message": clip(taken)}), delete=queued, wake_after=30)
    status = put(status, ConditionType.DEPENDENCIES_READY, True, "Resolved", "", generation, now)
    step = gate.queue(subject.with_status(status), roles, observed, world, defaults)
    if isinstance(step, Passed):
        step = gate.short(subject.with_status(status), wanted, world) or step
    if isinstance(step, Decision):
        return step
    status = put(planned.status, ConditionType.DEPENDENCIES_READY, True, "Resolved", "", generation, now)
    status = gate.opened(subject.with_status(status))
    status = put(status, ConditionType.RUNNING, False, "Starting", "", generation, now)
    return Decision(
        status.model_copy(
            update={
                "start_time": stamp(now),
                "run_dir": subject.run_dir,
                "message": "starting",
                "roles": [RoleStatus(name=role.name, desired=role.replicas, attempt=1) for role in roles],
                "usage": Usage(gpu_price=_price(subject, defaults)),
            }
        )
    )


def _price(subject: Subject, defaults: Defaults) -> str:
    """The price of a GPU-hour that holds for the whole run: its profile's, else the operator's; empty without one."""
    price = subject.chosen.profile.gpu_hour_price if subject.chosen else None
    price = defaults.gpu_hour_price if price is None else price
    return "" if price is None else f"{price:f}"


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
    for report in world.reports.values():
        status = lineage.pinned(status, report.inputs)
    subject = subject.with_status(spend(status, world.reports))
    subject = subject.with_status(look(subject, roles, observed, world.reports))
    if all(is_done(role, subject.status, observed) for role in roles if role.essential):
        return Decision(_complete(subject, observed))
    if subject.spec.cancel:
        return Decision(fail(subject, "Cancelled", "cancelled (spec.cancel); what it has saved is kept"))
    if subject.spec.suspend or _is_suspended(subject.status):
        return _suspend(subject, world, observed)
    corrected = images.corrected(subject, roles, observed, _started_spec(observed))
    if corrected is not None:
        return Decision(corrected)
    step = gate.queue(subject, roles, observed, world, defaults)
    if isinstance(step, Decision):
        return step
    subject, roles, held = step.subject, step.roles, gate.is_held(subject.status)
    late = overdue(subject)
    if late:
        return Decision(fail(subject, "DeadlineExceeded", late))
    found = failure(roles, subject, observed) or stall_failure(subject, MAIN_ROLE[subject.kind])
    if found is not None and not held:
        if found.role == MAIN_ROLE[subject.kind] and hasattr(subject.spec, "checkpoint"):
            subject = subject.with_status(after_failure(subject.status, subject.now, found.exit_code))
        return Decision(answer(subject, found))
    targets, left = teardown.old_attempts(roles, subject.status, observed)
    targets += images.replaced(subject, roles, observed)
    if left:
        text = f"waiting until {', '.join(left[:4])} of the last attempt is gone"
        status = subject.status.model_copy(update={"message": clip(text)})
        return Decision(status, delete=tuple(targets))
    retry_at = parse_time(subject.status.retry_after)
    if retry_at is not None and retry_at > subject.now:
        latest = subject.now + timedelta(seconds=longest_wait(subject) + 1)
        if retry_at > latest:  # stored by a clock ahead of this one, that of another node's leader
            return Decision(subject.status.model_copy(update={"retry_after": stamp(latest)}), delete=tuple(targets))
        wait = seconds_until(subject, retry_at, deadline(subject))
        return Decision(subject.status, delete=tuple(targets), wake_after=wait)
    subject = subject.with_status(subject.status.model_copy(update={"retry_after": ""}))
    made = [work for work in (*observed.works, *observed.sets) if _is_current(work, subject.status)]
    if defaults.job_sets or observed.sets:
        gangs = {role.name for role in roles if role.gang}
        defaults = replace(defaults, job_sets=_in_sets([work for work in made if work.role in gangs], defaults))
    missing = _missing(subject, roles, observed, defaults)
    if subject.status.attempt > 1 and any(obj["kind"] in ("Job", "JobSet") for obj in missing):
        questions = teardown.pods_before(f"attempt {subject.status.attempt}", world.asked)
        if questions:
            return Decision(subject.status, ask=questions)
    if held or not made:
        short = gate.short(subject, missing, world)
        if short is not None:
            return replace(short, delete=tuple(targets))
    if held:
        status = gate.opened(subject.with_status(gate.next_attempt(subject.status)))
        return Decision(put(status, ConditionType.RUNNING, False, "Starting", "", subject.generation, subject.now))
    taken = _taken(subject, missing, world)
    if taken:
        status = subject.status.model_copy(update={"message": clip(taken)})
        status = put(status, ConditionType.RUNNING, False, "NameTaken", taken, subject.generation, subject.now)
        return Decision(status, delete=tuple(targets), wake_after=30)
    found_status, patches = step.after(assess(subject, roles, observed))
    now_is = subject.with_status(found_status)
    look_again = None
    if world.quotas and not is_true(found_status, ConditionType.RUNNING):
        found_status, look_again = gate.starved(now_is, _wanted(subject, roles, defaults), observed, world)
    wake = seconds_until(subject, deadline(subject), stall_time(now_is))
    wake = min((wait for wait in (wake, look_again) if wait is not None), default=None)
    return Decision(found_status, apply=tuple(missing), delete=tuple(targets), patch=patches, wake_after=wake)


def _is_current(work: Work, status: RunStatus) -> bool:
    return work.attempt == role_attempt(status, work.role)


def _in_sets(gang: list[Work], defaults: Defaults) -> bool:
    """Whether the gang is a JobSet: an attempt stays what it was made as, whatever the operator is told meanwhile."""
    return any(work.kind == "JobSet" for work in gang) or (defaults.job_sets and not gang)


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


def _suspend(subject: Subject, world: World, observed: Observed) -> Decision:
    """Suspend and resume. Once begun, suspending is finished even when the wish changes meanwhile."""
    status, generation, now = subject.status, subject.generation, subject.now
    if is_true(status, ConditionType.SUSPENDED):
        if subject.spec.suspend:
            queued = kueue.deleted(kueue.find(world.children, subject.uid))  # gives the quota back
            return Decision(status, delete=(*teardown.everything_active(observed), *queued))
        return Decision(_resume(subject))
    if not is_because(status, ConditionType.SUSPENDED, "Suspending"):
        text = "stopping: pods save their state and end"
        status = put(status, ConditionType.SUSPENDED, False, "Suspending", text, generation, now)
        status = put(status, ConditionType.RUNNING, False, "Suspended", "", generation, now)
        return Decision(status.model_copy(update={"message": text, "retry_after": ""}))
    if not teardown.is_quiet(observed):
        return Decision(status, delete=tuple(teardown.everything_active(observed)))
    questions = teardown.pods_before(f"suspension of attempt {status.attempt}", world.asked)
    if questions:
        return Decision(status, ask=questions)
    text = "suspended (spec.suspend); its state is kept"
    ended = Attempt(number=status.attempt, reason="Suspended", message=text, counted=False, ended=stamp(now))
    status = put(status, ConditionType.SUSPENDED, True, "ByUser", text, generation, now)
    if subject.spec.scheduling.queue_name:
        status = put(status, ConditionType.QUOTA_RESERVED, False, "Released", "", generation, now)
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
    words = _words(subject, observed)
    status = lineage.pinned(subject.status, words.inputs)
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


def _finish(subject: Subject, world: World, observed: Observed) -> Decision:
    """After the end: take down what still runs, then say that the run has succeeded."""
    status = look(subject, plan_roles(subject.spec), observed, {})
    quiet = teardown.is_quiet(observed)
    targets = teardown.everything_active(observed)
    if quiet:
        targets += teardown.network(subject.name, observed)
    if not is_because(status, ConditionType.SUCCEEDED, "Completing"):
        succeeded = is_true(status, ConditionType.SUCCEEDED)
        queued = kueue.find(world.children, subject.uid) if quiet else None
        patches = kueue.finished(queued, succeeded, status.message, subject.now)
        return replace(_expire(subject.with_status(status), targets, quiet), patch=patches)
    since = parse_time(status.completion_time)
    if since is not None and since > subject.now:  # stored by a clock ahead of this one
        return Decision(status.model_copy(update={"completion_time": stamp(subject.now)}), delete=tuple(targets))
    age = (subject.now - since).total_seconds() if since else 0.0
    if not quiet and age < _COMPLETING_SECONDS:
        return Decision(status, delete=tuple(targets), wake_after=_COMPLETING_SECONDS - age)
    status = put(status, ConditionType.SUCCEEDED, True, "Completed", status.message, subject.generation, subject.now)
    return Decision(status, delete=tuple(targets))


def _expire(subject: Subject, targets: list[Target], quiet: bool) -> Decision:
    """An ended run: nothing more to do but to delete it once its time is over."""
    end = expiry(subject)
    if end is not None and subject.now >= end and quiet and not targets:
        return Decision(subject.status, delete=(Target(subject.kind, subject.name, subject.uid),))
    return Decision(subject.status, delete=tuple(targets), wake_after=seconds_until(subject, end))


__all__ = ["Decision", "Defaults", "Event", "World", "reconcile"]
