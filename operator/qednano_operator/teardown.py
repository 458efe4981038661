"""Which objects of a run have to go: those of older attempts, and at the end all that still run."""

from __future__ import annotations

from collections.abc import Iterable, Set
from datetime import datetime

from qednano.api import RunStatus
from qednano.plan import Lifecycle, Role
from qednano_operator.attempts import role_attempt
from qednano_operator.decision import Question, Target
from qednano_operator.observe import Observed, Pod, Work

_LOST_SECONDS = 300  # after the end of its grace period: as long as Kubernetes tolerates a node that does not answer


def _target(item: Pod | Work) -> Target:
    """A Job of a JobSet goes with its JobSet, which would make it anew."""
    if isinstance(item, Work):
        return Target("JobSet", *item.of_set) if item.of_set else Target(item.kind, item.name, item.uid)
    return Target("Pod", item.name, item.uid)


def _set_ended(gang: Work, observed: Observed) -> bool:
    """Whether a JobSet makes no more pods: it says so, or all its Jobs have ended."""
    jobs = [work for work in observed.works if work.of_set == (gang.name, gang.uid)]
    return gang.complete or bool(gang.failed) or (bool(jobs) and all(_finished(job, observed) for job in jobs))


def _finished(work: Work, observed: Observed) -> bool:
    """Whether a Job and its pods have ended. The pods may have ended though the Job does not say so yet."""
    if work.kind != "Job":
        return False
    pods = [pod for pod in observed.role_pods(work.role, work.attempt) if pod.index == work.index]
    return not any(pod.active for pod in pods) and (work.complete or bool(work.failed) or bool(pods))


def everything_active(observed: Observed) -> list[Target]:
    """Every server, unfinished Job and living pod. Finished Jobs stay, with their logs."""
    works = [work for work in observed.works if not work.terminating and not _finished(work, observed)]
    gangs = [gang for gang in observed.sets if not gang.terminating and not _set_ended(gang, observed)]
    pods = [pod for pod in observed.pods if pod.active and not pod.terminating]
    return _each_once([*works, *gangs, *pods])


def _each_once(items: Iterable[Pod | Work]) -> list[Target]:
    return list(dict.fromkeys(_target(item) for item in items))


def overdue(observed: Observed, now: datetime) -> tuple[list[Pod], float | None]:
    """Pods whose node has not said for long that they ended, and the seconds until the next will be such a one.

    The node is dead or cut off. What may still run there can't do harm: a trainer asks before each publish whether a
    newer attempt owns the run's folder.
    """
    late, next_in = [], None
    for pod in observed.pods:
        if pod.to_end_by is None or not pod.active:
            continue
        left = (pod.to_end_by - now).total_seconds() + _LOST_SECONDS
        if left <= 0:
            late.append(pod)
        else:
            next_in = min(left, next_in or left)
    return late, next_in


def forced(pods: Iterable[Pod]) -> list[Target]:
    """These pods, to be deleted without their node's word."""
    return [Target("Pod", pod.name, pod.uid, force=True) for pod in pods]


def is_quiet(observed: Observed) -> bool:
    """Whether nothing of the run runs any more or can start again."""
    return (
        not any(pod.active for pod in observed.pods)
        and all(_finished(work, observed) for work in observed.works)
        and all(_set_ended(gang, observed) for gang in observed.sets)
    )


def pods_before(step: str, asked: Set[str]) -> tuple[Question, ...]:
    """What to ask before a step of a run that no pod may outlive, once all that is known of is gone.

    A pod that was made just before its Job was deleted may be told of late.
    """
    return () if step in asked else (Question(frozenset({step})),)


def network(name: str, observed: Observed) -> list[Target]:
    """The run's Service and NetworkPolicy, those that are there."""
    kinds = ("Service", "NetworkPolicy")
    return [Target(kind, name, uid) for kind in kinds if (uid := observed.uids.get((kind, name)))]


def old_attempts(roles: tuple[Role, ...], status: RunStatus, observed: Observed) -> tuple[list[Target], list[str]]:
    """What to delete of older attempts, and what has to be gone before the next may begin, by name.

    That is every pod that still lives, and every Job that could still make one. The last finished attempt of a role is
    kept for its logs.
    """
    current = {role.name: role_attempt(status, role.name) for role in roles if role.lifecycle is Lifecycle.TASK}
    made = (*observed.works, *observed.sets)
    old = [work for work in made if work.role in current and work.attempt != current[work.role]]
    newest = {role: max((w.attempt for w in old if w.role == role), default=0) for role in current}
    going: list[Pod | Work] = []
    fertile = []
    for work in old:
        ended = _set_ended(work, observed) if work.kind == "JobSet" else _finished(work, observed)
        if not ended:
            fertile.append(work.name)
        if not (ended and work.attempt == newest[work.role]) and not work.terminating:
            going.append(work)
    living = [pod for pod in observed.pods if pod.active and pod.role in current and pod.attempt != current[pod.role]]
    going += [pod for pod in living if not pod.terminating]
    return _each_once(going), [*(pod.name for pod in living), *fertile]
