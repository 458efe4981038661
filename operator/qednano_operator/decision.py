"""What ``reconcile`` is given and what it returns; plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qednano.api import RunStatus
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


@dataclass(frozen=True)
class Target:
    """One object to delete; ``uid`` keeps a namesake made meanwhile safe."""

    kind: str
    name: str
    uid: str


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
    were made of the run's checkpoints.
    """

    children: tuple[Object, ...] = ()
    owners: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], Object] = field(default_factory=dict)
    reports: Mapping[str, ProgressReport] = field(default_factory=dict)
    evaluations: Mapping[str, Object] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What to do next: deletes, then applies, then the status; events only after the status is written.

    ``wake_after``: seconds until time alone makes another pass worthwhile.
    """

    status: RunStatus
    apply: tuple[Object, ...] = ()
    delete: tuple[Target, ...] = ()
    events: tuple[Event, ...] = ()
    wake_after: float | None = None
