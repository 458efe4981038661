"""What ``reconcile`` is given and what it returns; plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from qednano.api import RunStatus
from qednano.api.profile import Profile
from qednano.progress import ProgressReport

Object = dict[str, Any]


@dataclass(frozen=True)
class Defaults:
    """What the operator adds to every run."""

    images: Mapping[str, str] = field(
        default_factory=lambda: {
            "trainer": "qednano/trainer:latest",
            "server": "qednano/server:latest",
            "worker": "qednano/worker:latest",
        }
    )
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    network_policies: bool = True
    gpu_hour_price: Decimal | None = None  # of runs whose profile names none
    job_sets: bool = False  # whether a gang of several pods is made as one JobSet
    profiles: Mapping[str, Profile] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """One object to delete; ``uid`` keeps a namesake made meanwhile safe.

    ``force``: without waiting for the node's word that it has ended.
    """

    kind: str
    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True)
class Question:
    """What the API server is to be asked for: a run's pods, or those of one attempt of a role.

    ``answers``: what is known afterwards, as it is found in ``World.asked``.
    """

    answers: frozenset[str]
    role: str = ""
    attempt: int = 0


@dataclass(frozen=True)
class StatusPatch:
    """A merge patch of the status of an object in the run's namespace, if it still is at ``version``."""

    kind: str
    name: str
    version: str
    status: Object


@dataclass(frozen=True)
class Event:
    """One line for ``kubectl describe``."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class World:
    """What is known of a run's surroundings: its children, the runs it refers to, and the newest reports.

    ``children``: compact objects that carry the run's label. ``owners``: (kind, name) of every labelled object
    of the namespace to (uid of its run, "SFTRun tiny"). ``runs``: (kind, name) to the referenced run.
    ``reports``: role to the newest progress report of its first pod. ``evaluations``: name to EvalRun, of those that
    were made of the run's checkpoints. ``quotas``: ResourceQuotas of the namespace. ``kueue``: the version of Kueue's
    API that is spoken, empty without Kueue; ``flavors`` and ``priorities``: its ResourceFlavors, and the values of
    PriorityClasses, by name. ``asked``: the API server was asked for the pods of these Jobs and JobSets, by
    uid, when they had ended, and for all pods before these steps (``teardown.pods_before``): what it told is among the
    children, and what is not there is gone.
    """

    children: tuple[Object, ...] = ()
    owners: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], Object] = field(default_factory=dict)
    reports: Mapping[str, ProgressReport] = field(default_factory=dict)
    evaluations: Mapping[str, Object] = field(default_factory=dict)
    quotas: tuple[Object, ...] = ()
    kueue: str = ""
    flavors: Mapping[str, Object] = field(default_factory=dict)
    priorities: Mapping[str, int] = field(default_factory=dict)
    asked: Set[str] = frozenset()


@dataclass(frozen=True)
class Decision:
    """What to do next: deletes, applies and patches, then the status; events only after the status is written.

    ``finalizers``: all that the run is to have from now on, written after deletes and applies, and without a status.
    ``ask``: to be asked before anything else is done; another pass decides then.
    ``wake_after``: seconds until time alone makes another pass worthwhile.
    """

    status: RunStatus
    finalizers: tuple[str, ...] | None = None
    apply: tuple[Object, ...] = ()
    delete: tuple[Target, ...] = ()
    patch: tuple[StatusPatch, ...] = ()
    events: tuple[Event, ...] = ()
    ask: tuple[Question, ...] = ()
    wake_after: float | None = None
