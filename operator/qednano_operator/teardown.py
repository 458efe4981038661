"""Which objects of a run have to go: those of older attempts, and at the end all that still run."""

from __future__ import annotations

from qednano.api import RunStatus
from qednano.plan import Lifecycle, Role
from qednano_operator.attempts import role_attempt
from qednano_operator.decision import Target
from qednano_operator.observe import Observed, Pod, Work


def _target(item: Pod | Work) -> Target:
    return Target(item.kind if isinstance(item, Work) else "Pod", item.name, item.uid)


def _finished(work: Work, observed: Observed) -> bool:
    """Whether a Job and its pods have ended. The pods may have ended though the Job does not say so yet."""
    if work.kind != "Job":
        return False
    pods = [pod for pod in observed.role_pods(work.role, work.attempt) if pod.index == work.index]
    return not any(pod.active for pod in pods) and (work.complete or bool(work.failed) or bool(pods))


def everything_active(observed: Observed) -> list[Target]:
    """Every server, unfinished Job and living pod. Finished Jobs stay, with their logs."""
    works = [work for work in observed.works if not work.terminating and not _finished(work, observed)]
    pods = [pod for pod in observed.pods if pod.active and not pod.terminating]
    return [*map(_target, works), *map(_target, pods)]


def is_quiet(observed: Observed) -> bool:
    """Whether nothing of the run runs any more or can start again."""
    return not any(pod.active for pod in observed.pods) and all(_finished(w, observed) for w in observed.works)


def network(name: str, observed: Observed) -> list[Target]:
    """The run's Service and NetworkPolicy, those that are there."""
    kinds = ("Service", "NetworkPolicy")
    return [Target(kind, name, uid) for kind in kinds if (uid := observed.uids.get((kind, name)))]


def old_attempts(roles: tuple[Role, ...], status: RunStatus, observed: Observed) -> tuple[list[Target], list[Pod]]:
    """What to delete of older attempts, and their pods that still live.

    The last finished attempt of a role is kept for its logs.
    """
    current = {role.name: role_attempt(status, role.name) for role in roles if role.lifecycle is Lifecycle.TASK}
    targets: list[Target] = []
    old = [work for work in observed.works if work.role in current and work.attempt != current[work.role]]
    newest = {role: max((w.attempt for w in old if w.role == role), default=0) for role in current}
    for work in old:
        kept = _finished(work, observed) and work.attempt == newest[work.role]
        if not kept and not work.terminating:
            targets.append(_target(work))
    living = [pod for pod in observed.pods if pod.active and pod.role in current and pod.attempt != current[pod.role]]
    targets += [_target(pod) for pod in living if not pod.terminating]
    return targets, living
