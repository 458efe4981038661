"""What the watches have seen, kept small: runs, their children, and who refers to whom."""

from __future__ import annotations

import sys
import time
from collections import ChainMap
from collections.abc import Iterable, Mapping, Set
from typing import Any

from qednano.api import KINDS
from qednano.plan.evaluations import OF_LABEL
from qednano.progress import ProgressReport
from qednano_operator.decision import Object, World
from qednano_operator.dependencies import referenced
from qednano_operator.observe import LABEL
from qednano_operator.profiles import FILE
from qednano_operator.surroundings import Surroundings

Key = tuple[str, str, str]
"""Kind, namespace and name of a run."""

CHILD_KINDS = ("Job", "StatefulSet", "Pod", "Service", "ConfigMap", "NetworkPolicy")
_META = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "finalizers",
    "creationTimestamp",
    "deletionTimestamp",
)
_FOREIGN_SECONDS = 25.0
_SHORT = 64
_GONE_KEPT = 4096  # more than go while one question is answered
_HUNGRY = ("Queued", "Starting", "Restarting")


def _compact_container(status: Mapping[str, Any]) -> Object:
    kept = {key: status[key] for key in ("state", "lastState", "restartCount", "ready") if key in status}
    if "waiting" in (kept.get("state") or {}) and status.get("image"):
        kept["image"] = status["image"]  # the one that may be missing
    return kept


def _compact_pod(status: Mapping[str, Any], container: str) -> Object:
    """``container``: the one that counts; others may have been injected by an admission webhook."""
    kept = {key: status[key] for key in ("phase", "podIP", "reason", "message", "conditions") if key in status}
    containers = sorted(status.get("containerStatuses") or [], key=lambda item: item.get("name") != container)
    kept["containerStatuses"] = [_compact_container(item) for item in containers[:1]]
    return kept


def compact(kind: str, raw: Mapping[str, Any]) -> Object:
    """The parts of an object that are read here; the rest of thousands of pods would only cost memory."""
    meta = raw["metadata"]
    found: Object = {"kind": kind, "metadata": {key: meta[key] for key in _META if meta.get(key)}}
    if kind in KINDS:
        return {**found, "spec": raw.get("spec") or {}, "status": raw.get("status") or {}}
    owners = meta.get("ownerReferences") or []
    found["metadata"]["ownerReferences"] = [{"uid": owner.get("uid")} for owner in owners]
    hashed = (meta.get("annotations") or {}).get(LABEL + "spec-hash")
    if hashed:
        found["metadata"]["annotations"] = {LABEL + "spec-hash": hashed}
    status = raw.get("status") or {}
    if kind == "Pod":
        found["spec"] = {"nodeName": (raw.get("spec") or {}).get("nodeName") or ""}
        found["status"] = _compact_pod(status, (meta.get("labels") or {}).get(LABEL + "role", ""))
    elif kind in ("Job", "JobSet", "StatefulSet"):
        found["status"] = {key: status[key] for key in ("conditions", "readyReplicas") if status.get(key)}
    elif kind == "Workload":
        found["spec"] = {"active": (raw.get("spec") or {}).get("active", True)}
        kept = ("conditions", "admission", "admissionChecks")
        found["status"] = {key: status[key] for key in kept if status.get(key)}
    elif kind == "ConfigMap":
        data = raw.get("data") or {}
        found["data"] = {key: data[key] for key in ("config.json", FILE) if key in data}
    return found


def interned(value: Any) -> Any:
    """The same value, whose keys and short texts are held once for all objects: most say the same of another run."""
    if isinstance(value, dict):
        return {sys.intern(key): interned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [interned(item) for item in value]
    return sys.intern(value) if type(value) is str and len(value) <= _SHORT else value


def _version(obj: Object) -> int:
    text = obj["metadata"].get("resourceVersion") or "0"
    return int(text) if text.isdigit() else 0


def owner_key(obj: Object) -> Key | None:
    """The run that an object is or belongs to, by its labels."""
    meta = obj["metadata"]
    if obj["kind"] in KINDS:
        return obj["kind"], meta["namespace"], meta["name"]
    labels = meta.get("labels") or {}
    kind, run = labels.get(LABEL + "kind"), labels.get(LABEL + "run")
    return (kind, meta["namespace"], run) if kind in KINDS and run else None


def evaluated_run(obj: Object) -> Key | None:
    """The training run whose checkpoint an EvalRun was made for; None for any other object."""
    meta = obj["metadata"]
    name = (meta.get("labels") or {}).get(OF_LABEL)
    if obj["kind"] != "EvalRun" or not name:
        return None
    model = (obj.get("spec") or {}).get("model") or {}
    kind = "SFTRun" if "sftRun" in model else "RLRun"
    return kind, meta["namespace"], name


class Cache:
    """Newest known state of all runs and their children. Answers of our own writes go in too, so that the next
    pass need not wait for the watch to echo them."""

    def __init__(self) -> None:
        self._runs: dict[Key, Object] = {}
        self._children: dict[Key, dict[tuple[str, str], Object]] = {}
        self._owners: dict[str, dict[tuple[str, str], tuple[str, str]]] = {}
        self._dependents: dict[Key, set[Key]] = {}
        self._foreign: dict[tuple[str, str, str], float] = {}
        self._asked: dict[Key, set[str]] = {}  # as in World
        self._gone: dict[str, None] = {}  # uids of the pods that went last, the oldest first
        self._evaluations: dict[Key, dict[str, Object]] = {}  # training run to the EvalRuns of its checkpoints

        self._queued: dict[str, set[Key]] = {}  # namespace to its runs that wait for quota or for their pods
        self.around = Surroundings()
        self.kueue = ""  # the version of Kueue's API that is spoken

    def keys(self) -> list[Key]:
        """Every known run."""
        return list(self._runs)

    def run(self, key: Key) -> Object | None:
        """The run, if it exists."""
        return self._runs.get(key)

    def children(self, key: Key) -> Iterable[Object]:
        """Its labelled objects."""
        return self._children.get(key, {}).values()

    def _known(self, obj: Object) -> Object | None:
        """What is known under the object's kind and name, be it the same object or a namesake."""
        key = owner_key(obj)
        if key is None:
            return None
        if obj["kind"] in KINDS:
            return self._runs.get(key)
        return self._children.get(key, {}).get((obj["kind"], obj["metadata"]["name"]))

    def is_news(self, obj: Object) -> bool:
        """Whether this version of the object is not known yet, not even from the answer to our own write."""
        if owner_key(obj) is None:
            return False
        old = self._known(obj)
        return old is None or old["metadata"]["uid"] != obj["metadata"]["uid"] or _version(old) < _version(obj)

    def has(self, kind: str, namespace: str, name: str) -> bool:
        """Whether a labelled child of that name is known."""
        return (kind, name) in self._owners.get(namespace, {})

    def put(self, obj: Object) -> set[Key]:
        """Take in a compact object unless a newer one is known; returns the runs it concerns."""
        key = owner_key(obj)
        if key is None:
            return set()
        meta, old = obj["metadata"], self._known(obj)
        outdated = old is not None and old["metadata"]["uid"] == meta["uid"] and _version(old) > _version(obj)
        if obj["kind"] in KINDS:
            if outdated:
                return {key}
            self._link(key, old, obj)
            self._runs[key] = interned(obj)
            return self._concerned(key, obj)
        if not outdated:
            children = self._children.setdefault(key, {})
            children[obj["kind"], meta["name"]] = interned(obj)
            if obj["kind"] != "Pod":
                uid = next((owner["uid"] for owner in meta["ownerReferences"]), "")
                owners = self._owners.setdefault(meta["namespace"], {})
                owners[obj["kind"], meta["name"]] = (uid, f"{key[0]} {key[2]}")
        return {key}

    def remove(self, obj: Object) -> set[Key]:
        """Forget a deleted object; returns the runs it concerns."""
        key = owner_key(obj)
        if key is None:
            return set()
        meta = obj["metadata"]
        if obj["kind"] in KINDS:
            old = self._runs.get(key)
            if old is None or old["metadata"]["uid"] != meta["uid"]:
                return {key}
            del self._runs[key]
            self._asked.pop(key, None)
            self._link(key, old, None)
            return self._concerned(key, old)
        if obj["kind"] == "Pod":
            self._gone[meta["uid"]] = None
            if len(self._gone) > _GONE_KEPT:
                del self._gone[next(iter(self._gone))]
        children = self._children.get(key, {})
        name = (obj["kind"], meta["name"])
        if name in children and children[name]["metadata"]["uid"] == meta["uid"]:
            del children[name]
            self._owners.get(meta["namespace"], {}).pop(name, None)
            if not children:
                del self._children[key]
        return {key}

    def _concerned(self, key: Key, obj: Object) -> set[Key]:
        trained = evaluated_run(obj)
        return {key, *self._dependents.get(key, set()), *([trained] if trained else [])}

    def queued(self, namespace: str) -> set[Key]:
        """Runs of the namespace that a change of its quotas may concern; of all namespaces when it is empty."""
        if namespace:
            return set(self._queued.get(namespace, ()))
        return {key for keys in self._queued.values() for key in keys}

    def _link(self, key: Key, old: Object | None, new: Object | None) -> None:
        namespace = key[1]
        if new is not None and (new["status"] or {}).get("phase") in _HUNGRY:
            self._queued.setdefault(namespace, set()).add(key)
        else:
            self._queued.get(namespace, set()).discard(key)
        if old is not None and (trained := evaluated_run(old)) is not None:
            self._evaluations.get(trained, {}).pop(key[2], None)
        if new is not None and (trained := evaluated_run(new)) is not None:
            self._evaluations.setdefault(trained, {})[key[2]] = new
        before = referenced(old["spec"]) if old else set()
        after = referenced(new["spec"]) if new else set()
        for kind, name in before - after:
            self._dependents.get((kind, namespace, name), set()).discard(key)
        for kind, name in after - before:
            self._dependents.setdefault((kind, namespace, name), set()).add(key)

    def note_foreign(self, kind: str, namespace: str, name: str) -> None:
        """Remember for a while that somebody else has an object of that name."""
        self._foreign[kind, namespace, name] = time.monotonic()

    def answered(self, key: Key, pods: Iterable[Object], answers: Set[str]) -> None:
        """Take in the pods that the API server was asked for; one whose end was told meanwhile stays gone."""
        for pod in pods:
            if pod["metadata"]["uid"] not in self._gone:
                self.put(pod)
        if key in self._runs:
            self._asked.setdefault(key, set()).update(answers)

    def world(self, key: Key, reports: Mapping[str, ProgressReport]) -> World:
        """What surrounds a run now."""
        _, namespace, _ = key
        run = self._runs[key]
        since = time.monotonic() - _FOREIGN_SECONDS
        foreign = {
            (kind, name): ("", "nobody's run")
            for (kind, where, name), noted in self._foreign.items()
            if where == namespace and noted > since
        }
        runs = {
            (kind, name): found
            for kind, name in referenced(run["spec"])
            if (found := self._runs.get((kind, namespace, name))) is not None
        }
        return World(
            children=tuple(self.children(key)),
            owners=ChainMap(foreign, self._owners.get(namespace, {})),
            runs=runs,
            reports=reports,
            evaluations=dict(self._evaluations.get(key, {})),
            quotas=tuple(self.around.of("ResourceQuota", namespace).values()),
            kueue=self.kueue,
            flavors=self.around.of("ResourceFlavor"),
            priorities={name: found["value"] for name, found in self.around.of("PriorityClass").items()},
            asked=frozenset(self._asked.get(key, ())),
        )

    def holds(self, obj: Object) -> bool:
        """Whether just this object, by its uid, is known."""
        known = self._known(obj)
        return known is not None and known["metadata"]["uid"] == obj["metadata"]["uid"]

    def compare(self, kind: str, objects: list[Object], listed_at: float) -> tuple[list[Object], list[Object]]:
        """Objects of a full list that are not known here, or only an older state; and those here that it lacks.

        What came here after ``listed_at`` (monotonic seconds) is too young for the list, so it lacks nothing.
        """
        alive = {obj["metadata"]["uid"] for obj in objects}
        stored = (
            [run for key, run in self._runs.items() if key[0] == kind]
            if kind in KINDS
            else [child for children in self._children.values() for child in children.values() if child["kind"] == kind]
        )
        gone = [obj for obj in stored if obj["metadata"]["uid"] not in alive and obj.get("seen", 0.0) < listed_at]
        return [obj for obj in objects if self.is_news(obj)], gone
