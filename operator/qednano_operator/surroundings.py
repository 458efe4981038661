"""What runs share and nobody here owns: quotas of a namespace, Kueue's flavors, priority classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qednano_operator.decision import Object

QUOTA_KINDS = ("ResourceQuota",)
KUEUE_KINDS = ("ResourceFlavor", "PriorityClass")  # of the whole cluster


def compact(kind: str, raw: Mapping[str, Any]) -> Object:
    """The parts that are read here."""
    meta = raw["metadata"]
    kept: Object = {"name": meta["name"], "namespace": meta.get("namespace") or ""}
    found: Object = {"kind": kind, "metadata": kept, "spec": raw.get("spec") or {}}
    if kind == "ResourceQuota":
        found["status"] = raw.get("status") or {}
    if kind == "PriorityClass":
        found["value"] = int(raw.get("value") or 0)
    return found


class Surroundings:
    """The newest known of each."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Object]] = {}

    def put(self, obj: Object) -> bool:
        """Take the object in; whether it says anything new."""
        kind, meta = obj["kind"], obj["metadata"]
        there = self._known.setdefault((kind, meta["namespace"]), {})
        news = there.get(meta["name"]) != obj
        there[meta["name"]] = obj
        return news

    def remove(self, obj: Object) -> None:
        """Forget a deleted object."""
        meta = obj["metadata"]
        self._known.get((obj["kind"], meta["namespace"]), {}).pop(meta["name"], None)

    def replace_all(self, kind: str, objects: Iterable[Object]) -> None:
        """Know these objects of the kind and no others."""
        for found, namespace in list(self._known):
            if found == kind:
                del self._known[found, namespace]
        for obj in objects:
            self.put(obj)

    def of(self, kind: str, namespace: str = "") -> dict[str, Object]:
        """Name to object."""
        return self._known.get((kind, namespace), {})
