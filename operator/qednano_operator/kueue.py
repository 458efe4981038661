"""Kueue: one Workload for the whole run, and the handshake about it. Pure.

Kueue admits a Workload as a whole or not at all, so a run gets all its roles or none. What a job integration of Kueue
does, the operator does for its own: it makes the Workload, waits for Admitted, places pods where the admission says,
stops them and gives the quota back when the Workload is evicted, and marks it finished at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from qednano.plan import Role
from qednano_operator import manifests
from qednano_operator.conditions import clip, stamp
from qednano_operator.decision import Defaults, Object, StatusPatch, Target
from qednano_operator.observe import LABEL
from qednano_operator.quota import pods_of
from qednano_operator.subject import Assignment, Subject

GROUP = "kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""Those that are spoken, the newest first: what is used here is the same in both."""

MAX_POD_SETS = 8  # of one Workload


@dataclass(frozen=True)
class Workload:
    """The run's Workload as Kueue left it."""

    name: str
    uid: str
    version: str
    spec_hash: str
    active: bool
    conditions: tuple[Object, ...]
    assignments: tuple[Object, ...]
    checks: tuple[Object, ...]

    def says(self, condition: str) -> Object | None:
        """The condition of that type, if it is True."""
        return next((c for c in self.conditions if c["type"] == condition and c["status"] == "True"), None)

    @property
    def admitted(self) -> bool:
        """Whether the run may have pods."""
        return self.says("Admitted") is not None and self.says("Evicted") is None

    def count(self, role: str) -> int | None:
        """For how many pods of the role there is quota; None when the Workload does not know the role."""
        found = next((item for item in self.assignments if item.get("name") == role), None)
        return None if found is None or found.get("count") is None else int(found["count"])


def find(children: Iterable[Object], run_uid: str) -> Workload | None:
    """The run's Workload among its children."""
    for obj in children:
        meta = obj["metadata"]
        owners = {owner.get("uid") for owner in meta.get("ownerReferences") or []}
        if obj["kind"] == "Workload" and run_uid in owners and not meta.get("deletionTimestamp"):
            status = obj.get("status") or {}
            return Workload(
                name=meta["name"],
                uid=meta["uid"],
                version=meta.get("resourceVersion") or "",
                spec_hash=(meta.get("annotations") or {}).get(LABEL + "spec-hash", ""),
                active=bool((obj.get("spec") or {}).get("active", True)),
                conditions=tuple(status.get("conditions") or ()),
                assignments=tuple((status.get("admission") or {}).get("podSetAssignments") or ()),
                checks=tuple(status.get("admissionChecks") or ()),
            )
    return None


def workload(
    subject: Subject, roles: tuple[Role, ...], priorities: Mapping[str, int], defaults: Defaults, api_version: str
) -> Object:
    """The Workload that asks for the whole run: a pod set for each role. Raises ValueError with a sentence."""
    if len(roles) > MAX_POD_SETS:
        raise ValueError(
            f"Kueue admits at most {MAX_POD_SETS} roles together and the run has {len(roles)}; "
            "name endpoints for some of its language models"
        )
    wish = subject.spec.scheduling
    spec: Object = {"queueName": wish.queue_name, "podSets": [_pod_set(subject, role, defaults) for role in roles]}
    if wish.priority_class_name in priorities:
        spec["priority"] = priorities[wish.priority_class_name]
    return manifests.sealed(
        {
            "apiVersion": api_version,
            "kind": "Workload",
            "metadata": manifests.metadata(
                subject, f"{subject.name}-{subject.kind.lower()}", manifests.labels(subject)
            ),
            "spec": spec,
        }
    )


def _pod_set(subject: Subject, role: Role, defaults: Defaults) -> Object:
    """What Kueue counts and matches with its flavors: resources and placement, nothing that only the pod needs."""
    bare = replace(subject, assigned={})
    pod, _ = pods_of(manifests.role_objects(bare, replace(role, replicas=1), 1, defaults)[0])
    kept = ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName")
    containers = [{key: item[key] for key in ("name", "resources")} for item in pod["containers"]]
    template = {"containers": containers, "restartPolicy": "Never", **{key: pod[key] for key in kept if key in pod}}
    return {"name": role.name, "count": role.replicas, "template": {"metadata": {}, "spec": template}}


def waiting(found: Workload) -> str:
    """Why the Workload is not admitted, in Kueue's own words where there are some."""
    evicted, reserved = found.says("Evicted"), found.says("QuotaReserved")
    pending = next((c for c in found.conditions if c["type"] == "QuotaReserved" and c["status"] == "False"), None)
    if not found.active:
        return f"Workload {found.name} is deactivated (its spec.active is false)"
    if reserved is not None and evicted is None:
        checks = [f"{c.get('name')} {c.get('state')}" for c in found.checks if c.get("state") != "Ready"]
        return f"quota is reserved; waiting for the admission checks {', '.join(checks)}".rstrip(" s")
    if pending is not None and pending.get("message"):
        return str(pending["message"])
    return ""


def assigned(found: Workload, flavors: Mapping[str, Object]) -> dict[str, Assignment] | str:
    """Role to where its admission puts its pods; the name of a flavor that is not known yet."""
    result: dict[str, Assignment] = {}
    for item in found.assignments:
        labels: dict[str, str] = {}
        tolerations: list[Object] = []
        for name in sorted(set((item.get("flavors") or {}).values())):
            if name not in flavors:
                return str(name)
            spec = flavors[name].get("spec") or {}
            labels |= spec.get("nodeLabels") or {}
            tolerations += spec.get("tolerations") or []
        found_here = Assignment(node_selector=labels, tolerations=tuple(tolerations))
        result[item["name"]] = _updated(found_here, item["name"], found.checks)
    return result


def _updated(assignment: Assignment, role: str, checks: Iterable[Object]) -> Assignment:
    """With what admission checks ask of the role's pods, such as the nodes that were provisioned for them."""
    for check in checks:
        for update in check.get("podSetUpdates") or []:
            if update.get("name") == role:
                assignment = Assignment(
                    node_selector={**assignment.node_selector, **(update.get("nodeSelector") or {})},
                    tolerations=(*assignment.tolerations, *(update.get("tolerations") or ())),
                    labels={**assignment.labels, **(update.get("labels") or {})},
                    annotations={**assignment.annotations, **(update.get("annotations") or {})},
                )
    return assignment


def within_quota(roles: tuple[Role, ...], found: Workload) -> tuple[tuple[Role, ...], str]:
    """Roles with no more servers than there is quota for, and a sentence about those that have to wait."""
    said = []
    kept = []
    for role in roles:
        count = found.count(role.name)
        if count is not None and role.replicas > count:
            said.append(f"{role.name} has quota for {count} of {role.replicas}")
            role = replace(role, replicas=count)
        kept.append(role)
    told = f"{', '.join(said)}; suspend and resume the run to ask for more" if said else ""
    return tuple(kept), told


def deleted(found: Workload | None) -> tuple[Target, ...]:
    """Takes the Workload away and so gives its quota back."""
    return (Target("Workload", found.name, found.uid),) if found else ()


def released(found: Workload, now: datetime) -> tuple[StatusPatch, ...]:
    """Gives an evicted Workload's quota back once its pods are gone, so that Kueue may queue it anew."""
    evicted = found.says("Evicted")
    if evicted is None or found.says("QuotaReserved") is None:
        return ()
    reason, message = str(evicted.get("reason") or "Evicted"), str(evicted.get("message") or "")
    changes = [
        ("QuotaReserved", False, "Pending", message),
        ("Admitted", False, "NoReservation", "the quota was given back"),
        # Kueue queues what was preempted at once; for other causes it decides itself when.
        ("Requeued", reason in ("Preempted", "NodeFailures"), reason, message),
    ]
    if found.says("PodsReady"):
        changes.append(("PodsReady", False, "WaitForStart", "no pod is left"))
    return (_patch(found, changes, now, {"admission": None}),)


def ready(found: Workload, now: datetime) -> tuple[StatusPatch, ...]:
    """Says once that all pods run; Kueue may wait for it before it admits others."""
    if found.says("PodsReady"):
        return ()
    return (_patch(found, [("PodsReady", True, "Started", "all pods of the run are ready")], now),)


def finished(found: Workload | None, succeeded: bool, message: str, now: datetime) -> tuple[StatusPatch, ...]:
    """Marks the Workload of an ended run: Kueue frees its quota and keeps it for the record."""
    if found is None or found.says("Finished"):
        return ()
    reason = "Succeeded" if succeeded else "Failed"
    return (_patch(found, [("Finished", True, reason, message or reason)], now),)


def _patch(
    found: Workload,
    changes: list[tuple[str, bool, str, str]],
    now: datetime,
    more: Mapping[str, Any] | None = None,
) -> StatusPatch:
    """A merge patch with the whole list of conditions: lists are replaced as one, under the version that was read."""
    conditions = {c["type"]: dict(c) for c in found.conditions}
    for kind, value, reason, message in changes:
        text = "True" if value else "False"
        old = conditions.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == text else None
        conditions[kind] = {
            **old,
            "type": kind,
            "status": text,
            "reason": reason,
            "message": clip(message),
            "lastTransitionTime": since or stamp(now),
        }
    status = {"conditions": list(conditions.values()), **(more or {})}
    return StatusPatch("Workload", found.name, found.version, status)
