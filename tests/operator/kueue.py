"""Kueue for tests: its API on the real API server, and a stand-in for its controllers' side of the handshake.

The CustomResourceDefinitions are written here after Kueue's published API (Apache 2.0; kueue.x-k8s.io v1beta1 and
v1beta2): the fields that the handshake uses, with the bounds and the rules that Kueue puts on them. What is left out is
what nobody here reads or writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.operator.harness import Cluster, eventually
from tools.cluster.api_client import MERGE

GROUP, VERSIONS = "kueue.x-k8s.io", ("v1beta2", "v1beta1")
_NAME = {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_CONDITION = {
    "type": "object",
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "message": {"type": "string", "maxLength": 32768},
        "observedGeneration": {"type": "integer", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
    },
}


def _by(key: str, items: dict[str, Any], most: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "array",
        "maxItems": most,
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
        **more,
    }


_POD_SET = {
    "type": "object",
    "required": ["name", "template"],
    "properties": {
        "name": _NAME,
        "count": {"type": "integer", "minimum": 0, "default": 1},
        "template": {
            "type": "object",
            "properties": {
                "metadata": {"type": "object", "properties": {"labels": _TEXTS, "annotations": _TEXTS}},
                "spec": _ANY,
            },
        },
    },
}
_ASSIGNMENT = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": _NAME, "flavors": _TEXTS, "count": {"type": "integer", "minimum": 0}, "resourceUsage": _ANY},
}
_CHECK = {
    "type": "object",
    "required": ["name", "state", "message", "lastTransitionTime"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 316},
        "state": {"type": "string", "enum": ["Pending", "Ready", "Retry", "Rejected"]},
        "message": {"type": "string", "maxLength": 32768},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "podSetUpdates": {"type": "array", "maxItems": 8, "items": _ANY},
    },
}
_RESERVED = (
    "has({0}.status) && has({0}.status.conditions) && "
    "{0}.status.conditions.exists(c, c.type == 'QuotaReserved' && c.status == 'True')"
)
_SAME_QUEUE = (
    f"!({_RESERVED.format('oldSelf')} && {_RESERVED.format('self')}) || self.spec.queueName == oldSelf.spec.queueName"
)
_WHOLE = (
    f"!({_RESERVED.format('self')} && has(self.status.admission)) || "
    "size(self.spec.podSets) == size(self.status.admission.podSetAssignments)"
)
_WORKLOAD = {
    "type": "object",
    "x-kubernetes-validations": [
        {"rule": _SAME_QUEUE, "message": "queueName is immutable while quota is reserved"},
        {"rule": _WHOLE, "message": "podSetAssignments must have as many entries as podSets"},
    ],
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "queueName": {"type": "string", "maxLength": 253},
                "podSets": _by("name", _POD_SET, 8, minItems=1),
                "priority": {"type": "integer", "format": "int32"},
                "active": {"type": "boolean", "default": True},
            },
        },
        "status": {
            "type": "object",
            "properties": {
                "conditions": _by("type", _CONDITION, 16),
                "admission": {
                    "type": "object",
                    "properties": {
                        "clusterQueue": {"type": "string", "maxLength": 253},
                        "podSetAssignments": _by("name", _ASSIGNMENT, 8),
                    },
                },
                "admissionChecks": _by("name", _CHECK, 8),
            },
        },
    },
}
_FLAVOR = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "nodeLabels": {**_TEXTS, "maxProperties": 8},
                "tolerations": {"type": "array", "maxItems": 8, "items": _ANY},
                "nodeTaints": {"type": "array", "maxItems": 8, "items": _ANY},
            },
        }
    },
}


def _crd(kind: str, scope: str, schema: dict[str, Any]) -> dict[str, Any]:
    versions = [
        {
            "name": version,
            "served": True,
            "storage": version == VERSIONS[0],
            "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": schema},
        }
        for version in VERSIONS
    ]
    names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names['plural']}.{GROUP}",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
        },
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": versions},
    }


def crds() -> list[dict[str, Any]]:
    """Workload and ResourceFlavor."""
    return [_crd("Workload", "Namespaced", _WORKLOAD), _crd("ResourceFlavor", "Cluster", _FLAVOR)]


@dataclass(frozen=True)
class Kueue:
    """The part of Kueue's scheduler and workload controller, played by the test in one namespace."""

    cluster: Cluster

    def path(self, name: str = "", subresource: str = "") -> str:
        """URL of Workloads."""
        root = f"/apis/{GROUP}/{VERSIONS[0]}/namespaces/{self.cluster.namespace}/workloads"
        return "/".join(part for part in (root, name, subresource) if part)

    def flavor(self, name: str, labels: dict[str, str], tolerations: Sequence[dict[str, str]] = ()) -> None:
        """Make a ResourceFlavor."""
        spec = {"nodeLabels": labels, "tolerations": list(tolerations)}
        body = {
            "apiVersion": f"{GROUP}/{VERSIONS[0]}",
            "kind": "ResourceFlavor",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.cluster.server.client.request("POST", f"/apis/{GROUP}/{VERSIONS[0]}/resourceflavors", body)

    def workloads(self) -> list[dict[str, Any]]:
        """All Workloads of the namespace."""
        found: list[dict[str, Any]] = self.cluster.server.client.request("GET", self.path())["items"]
        return found

    def of(self, run: str) -> dict[str, Any]:
        """Wait for the Workload of a run."""
        return eventually(
            lambda: next((w for w in self.workloads() if w["metadata"]["labels"]["qednano.dev/run"] == run), None),
            what=f"the Workload of {run}",
        )

    def is_true(self, run: str, condition: str) -> bool:
        """Whether the Workload has the condition."""
        conditions = (self.of(run).get("status") or {}).get("conditions") or []
        return any(c["type"] == condition and c["status"] == "True" for c in conditions)

    def set(self, run: str, conditions: dict[str, tuple[bool, str, str]], **status: Any) -> None:
        """Write conditions as (value, reason, message), and further fields of the status."""
        workload = self.of(run)
        known = {c["type"]: c for c in (workload.get("status") or {}).get("conditions") or []}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for name, (value, reason, message) in conditions.items():
            text = "True" if value else "False"
            known[name] = {
                "type": name,
                "status": text,
                "reason": reason,
                "message": message,
                "lastTransitionTime": now,
            }
        body = {"status": {"conditions": list(known.values()), **status}}
        self.cluster.server.client.request("PATCH", self.path(workload["metadata"]["name"], "status"), body, MERGE)

    def hold(self, run: str, why: str) -> None:
        """No room in the ClusterQueue."""
        self.set(run, {"QuotaReserved": (False, "Pending", why)})

    def admit(self, run: str, flavor: str) -> None:
        """Reserve quota of one flavor for every pod set and admit."""
        assignments = [
            {"name": item["name"], "count": item["count"], "flavors": {"cpu": flavor, "memory": flavor}}
            for item in self.of(run)["spec"]["podSets"]
        ]
        conditions = {
            "QuotaReserved": (True, "QuotaReserved", "Quota reserved in ClusterQueue team"),
            "Admitted": (True, "Admitted", "The workload is admitted"),
            "Evicted": (False, "QuotaReserved", "Previously: preempted"),
        }
        self.set(run, conditions, admission={"clusterQueue": "team", "podSetAssignments": assignments})

    def preempt(self, run: str) -> None:
        """Another workload goes before this one; its quota is free once the operator gives it back."""
        message = "Preempted to accommodate a workload of higher priority"
        self.set(run, {"Evicted": (True, "Preempted", message), "Preempted": (True, "InClusterQueue", message)})
