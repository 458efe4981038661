"""What a started run is doing now: ready pods, GPUs held, progress, and what is in the way."""

from __future__ import annotations

from collections.abc import Mapping

from qednano.api import ConditionType, RunStatus
from qednano.api.status import Progress, RoleStatus, Usage
from qednano.plan import Lifecycle, Role
from qednano.plan.progress import summarise, with_tokens
from qednano.progress import ProgressReport
from qednano_operator.attempts import done, is_done, role_attempt, role_status
from qednano_operator.conditions import clip, find, is_true, put
from qednano_operator.limits import progressing
from qednano_operator.manifests import selector
from qednano_operator.observe import Observed, Pod
from qednano_operator.subject import Subject
from qednano_operator.usage import account

MAIN_ROLE = {"ProofDataset": "dataset", "SFTRun": "trainer", "RLRun": "trainer", "EvalRun": "evaluate"}
"""The role whose steps are the run's: the essential one of ``qednano.plan.roles`` (a test holds them equal)."""

REPORTING_ROLES = {**{kind: (role,) for kind, role in MAIN_ROLE.items()}, "RLRun": ("trainer", "actor")}


def role_statuses(roles: tuple[Role, ...], status: RunStatus, observed: Observed) -> list[RoleStatus]:
    """Desired and ready pods of each role. A task's pod counts as ready once it runs, and when it is done."""
    found = []
    for role in roles:
        old = role_status(status, role.name)
        server = role.lifecycle is Lifecycle.SERVER
        pods = observed.role_pods(role.name, None if server else role_attempt(status, role.name))
        ready = {p.index for p in pods if not p.terminating and (p.ready if server else p.running)}
        ready |= set() if server else done(role, status, observed)
        found.append(
            old.model_copy(
                update={
                    "desired": role.replicas,
                    "ready": len(ready),
                    "restarts": sum(pod.restarts for pod in pods) if server else old.restarts,
                    "attempt": role_attempt(status, role.name),
                }
            )
        )
    return found


def held_gpus(roles: tuple[Role, ...], observed: Observed) -> int:
    """GPUs of the pods that are bound to a node and not finished."""
    each = {role.name: role.resources.gpus for role in roles}
    return sum(each.get(pod.role, 0) for pod in observed.pods if pod.active and pod.scheduled)


def spend(status: RunStatus, reports: Mapping[str, ProgressReport]) -> RunStatus:
    """Add what the run's processes tell of tokens and money."""
    usage = status.usage or Usage()
    for report in reports.values():
        usage = with_tokens(usage, report.metrics)
    return status if usage == (status.usage or Usage()) else status.model_copy(update={"usage": usage})


def progress_of(kind: str, reports: Mapping[str, ProgressReport], old: Progress | None) -> Progress | None:
    """The run's progress: steps of the main role, numbers of all that report."""
    main = reports.get(MAIN_ROLE[kind])
    if main is None:
        return old
    others: dict[str, float] = {}
    paused = ""
    for role, report in reports.items():
        if role != MAIN_ROLE[kind]:
            others |= report.metrics
            paused = paused or report.paused
    found = summarise(kind, main, others, paused, old)
    return found if found.headline or old is None else found.model_copy(update={"headline": old.headline})


def _expected(roles: tuple[Role, ...], status: RunStatus, observed: Observed) -> list[tuple[Role, list[Pod]]]:
    return [
        (
            role,
            observed.role_pods(
                role.name, None if role.lifecycle is Lifecycle.SERVER else role_attempt(status, role.name)
            ),
        )
        for role in roles
        if role.lifecycle is Lifecycle.SERVER or not is_done(role, status, observed)
    ]


def _all_run(roles: tuple[Role, ...], status: RunStatus) -> bool:
    by_name = {role.name: role for role in status.roles}
    return all(
        by_name[role.name].ready >= (1 if role.lifecycle is Lifecycle.SERVER else role.replicas) for role in roles
    )


def assess(subject: Subject, roles: tuple[Role, ...], observed: Observed) -> RunStatus:
    """Conditions Scheduled and Running, and a message that says what is in the way."""
    status, generation, now = subject.status, subject.generation, subject.now
    pods = [pod for _, found in _expected(roles, status, observed) for pod in found if pod.active]
    held = next((pod for pod in pods if pod.stuck), None) or next((pod for pod in pods if pod.trouble), None)
    trouble = f"{held.name} {held.trouble}" if held else ""
    before = find(status, ConditionType.RUNNING)
    if before is not None and trouble and before.message.startswith(clip(trouble, 400)):
        trouble = before.message  # what was said before is the same, and more
    missing = [role for role in status.roles if role.ready < role.desired]
    waiting = ", ".join(f"{role.name} {role.ready} of {role.desired}" for role in missing)
    unbound = [pod for pod in pods if not pod.scheduled]
    if unbound or (not pods and find(status, ConditionType.SCHEDULED) is None):
        blocked = next((f"{pod.name} {pod.trouble}" for pod in unbound if pod.trouble), "")
        reason = "Unschedulable" if blocked else "PodsPending"
        status = put(status, ConditionType.SCHEDULED, False, reason, blocked, generation, now)
    elif pods:
        status = put(status, ConditionType.SCHEDULED, True, "PodsBound", "", generation, now)
    if _all_run(roles, status):
        status = put(status, ConditionType.RUNNING, True, "PodsRun", "", generation, now)
    elif not is_true(status, ConditionType.RUNNING):
        restarted = bool(status.attempts) and status.attempts[-1].reason != "Suspended"
        reason = (held.stuck if held else "") or ("Restarting" if restarted else "Starting")
        status = put(status, ConditionType.RUNNING, False, reason, trouble, generation, now)
    if is_true(status, ConditionType.RUNNING):
        status = progressing(subject.with_status(status))
        return status.model_copy(
            update={"message": clip(trouble or (status.progress.message if status.progress else ""))}
        )
    return status.model_copy(update={"message": clip(trouble or f"waiting for pods to run: {waiting}")})


def look(
    subject: Subject, roles: tuple[Role, ...], observed: Observed, reports: Mapping[str, ProgressReport]
) -> RunStatus:
    """Everything that is only observed: role counts, GPUs and their use, scale."""
    main = reports.get(MAIN_ROLE[subject.kind])
    saved = main.checkpointed if main else 0.0
    status = account(subject.status, held_gpus(roles, observed), subject.now, saved)
    status = status.model_copy(update={"roles": role_statuses(roles, status, observed)})
    if subject.kind == "RLRun":
        pods = [pod for pod in observed.role_pods("rollout") if not pod.terminating]
        status = status.model_copy(update={"rollout_replicas": len(pods), "selector": selector(subject, "rollout")})
    return status
