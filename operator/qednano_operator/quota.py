"""ResourceQuotas: what a run would need of them, and which of them is short by how much. Pure.

The API server counts in the same way when it admits objects; seeing it before anything is made keeps half a gang from
holding what the other half waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from qednano_operator.decision import Object

_FACTORS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_COUNTED = {
    "Job": ("count/jobs.batch",),
    "StatefulSet": ("count/statefulsets.apps",),
    "JobSet": ("count/jobsets.jobset.x-k8s.io",),
    "Service": ("services", "count/services"),
    "ConfigMap": ("configmaps", "count/configmaps"),
    "NetworkPolicy": ("count/networkpolicies.networking.k8s.io",),
}
_SHORT = {"cpu": "requests.cpu", "memory": "requests.memory"}  # other names of the same quota


def amount(quantity: str) -> Decimal:
    """A Kubernetes quantity as a number, such as 0.5 for 500m; 0 when it is none."""
    text = str(quantity).strip()
    unit = next((unit for unit in sorted(_FACTORS, key=len, reverse=True) if text.endswith(unit)), "")
    try:
        return Decimal(text.removesuffix(unit)) * _FACTORS.get(unit, Decimal(1))
    except ArithmeticError:
        return Decimal(0)


def shown(value: Decimal, resource: str) -> str:
    """An amount for people: memory in Gi or Mi, all else as a plain number."""
    if resource.endswith(("memory", "storage")):
        for unit in ("Gi", "Mi", "Ki"):
            if value >= _FACTORS[unit]:
                return f"{round(value / _FACTORS[unit], 1).normalize():f}{unit}"
    return f"{value.normalize():f}"


def pods_of(obj: Object) -> tuple[Object, int]:
    """The pod spec that an object makes pods of, and how many; ({}, 0) when it makes none."""
    if obj["kind"] == "JobSet":  # all ranks of a gang are alike
        ranks = obj["spec"]["replicatedJobs"]
        return ranks[0]["template"]["spec"]["template"]["spec"], len(ranks)
    if obj["kind"] not in ("Job", "StatefulSet"):
        return {}, 0
    spec = obj["spec"]
    return spec["template"]["spec"], spec["replicas"] if obj["kind"] == "StatefulSet" else spec["parallelism"]


def _of_pod(pod: Object, count: int) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {"pods": Decimal(count), "count/pods": Decimal(count)}
    for container in pod["containers"]:
        for side in ("requests", "limits"):
            for name, quantity in container["resources"].get(side, {}).items():
                key = f"{side}.{name}"
                found[key] = found.get(key, Decimal(0)) + count * amount(quantity)
    return found


def _matches(quota: Object, pod: Object) -> bool:
    """Whether the quota counts the pod: run pods have requests and no deadline of their own."""
    spec = quota.get("spec") or {}
    if {"Terminating", "BestEffort", "CrossNamespacePodAffinity"} & set(spec.get("scopes") or ()):
        return False
    selector = (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    return all(_selects(item, pod.get("priorityClassName") or "") for item in selector)


def _selects(expression: Mapping[str, Any], priority_class: str) -> bool:
    scope, operator = expression.get("scopeName"), expression.get("operator")
    if scope != "PriorityClass":
        return scope in ("NotTerminating", "NotBestEffort")
    values = expression.get("values") or []
    rows = {
        "In": priority_class in values,
        "NotIn": priority_class not in values,
        "Exists": bool(priority_class),
        "DoesNotExist": not priority_class,
    }
    return rows.get(str(operator), False)


def need(objects: Iterable[Object], quota: Object) -> dict[str, Decimal]:
    """What the objects would use of a quota, by the quota's own names of resources."""
    found: dict[str, Decimal] = {}
    spec = quota.get("spec") or {}
    scoped = bool(spec.get("scopes") or spec.get("scopeSelector"))
    for obj in objects:
        pod, count = pods_of(obj)
        used = _of_pod(pod, count) if count and _matches(quota, pod) else {}
        if not scoped:
            used |= dict.fromkeys(_COUNTED.get(obj["kind"], ()), Decimal(1))
            used |= {"count/jobs.batch": Decimal(count)} if obj["kind"] == "JobSet" else {}
        for name, value in used.items():
            found[name] = found.get(name, Decimal(0)) + value
    hard = (quota.get("status") or {}).get("hard") or spec.get("hard") or {}
    return {name: found[key] for name in hard if (key := _SHORT.get(name, name)) in found}


def shortages(objects: Iterable[Object], quotas: Iterable[Object]) -> list[str]:
    """A sentence for each quota and resource of which the objects need more than is left."""
    wanted = list(objects)
    said = []
    for quota in quotas:
        status = quota.get("status") or {}
        hard = status.get("hard") or {}
        used = status.get("used") or {}
        for name, value in sorted(need(wanted, quota).items()):
            if name not in hard:  # nothing is enforced before the quota has been counted
                continue
            limit = amount(hard[name])
            left = max(Decimal(0), limit - amount(used.get(name, "0")))
            if value > left:
                said.append(
                    f"ResourceQuota {quota['metadata']['name']} has {shown(left, name)} of {shown(limit, name)} {name} "
                    f"left and the run needs {shown(value, name)}: {shown(value - left, name)} short"
                )
    return said
