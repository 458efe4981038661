"""A cluster in memory, just enough to run ``reconcile`` through crashes and bad luck thousands of times a minute.

It plays what the API server, the Job and StatefulSet controllers, the garbage collector and the kubelet do to the
objects of one run. The operator's part is the real ``reconcile``; a crash cuts a decision off between two calls.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from qednano_operator.cache import compact
from qednano_operator.decision import Decision, Defaults, Object, World
from qednano_operator.reconcile import reconcile
from qednano_operator.status import difference, stored
from qednano_operator.subject import read_status

from qednano.progress import ProgressReport
from tests.operator.harness import manifest

LABEL = "qednano.dev/"


@dataclass
class Simulation:
    """One run and its objects. Raises AssertionError as soon as an invariant is broken."""

    run: Object
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    others: dict[tuple[str, str], Object] = field(default_factory=dict)  # runs that this one may refer to
    created: list[str] = field(default_factory=list)  # names of all Jobs ever made
    events: list[str] = field(default_factory=list)
    reports: dict[str, ProgressReport] = field(default_factory=dict)
    serial: int = 0

    @staticmethod
    def of(kind: str, **spec: Any) -> Simulation:
        """A fresh run of a kind."""
        run = manifest(kind, "tiny", "ns", **spec)
        run["metadata"] |= {"uid": "0123456789", "generation": 1}
        return Simulation(run)

    @property
    def status(self) -> dict[str, Any]:
        """The stored status."""
        return dict(self.run.get("status") or {})

    def pods(self, role: str = "") -> list[Object]:
        """Pods of a role."""
        return [
            obj
            for (kind, _), obj in self.objects.items()
            if kind == "Pod" and role in ("", obj["metadata"]["labels"][LABEL + "role"])
        ]

    def decide(self) -> Decision:
        """What the operator would do now."""
        children = tuple(compact(obj["kind"], obj) for obj in self.objects.values())
        return reconcile(
            copy.deepcopy(self.run), World(children, runs=self.others, reports=self.reports), self.now, Defaults()
        )

    def operator(self, crash_after: int | None = None) -> bool:
        """One pass, cut off after so many calls; whether it did anything."""
        decision = self.decide()
        calls = [("delete", target) for target in decision.delete] + [("apply", obj) for obj in decision.apply]
        patch = difference(stored(read_status(self.run)), stored(decision.status))
        if patch:
            calls.append(("status", decision))
        for verb, what in calls[:crash_after]:
            getattr(self, f"_{verb}")(what)
        self._check()
        return bool(calls)

    def _delete(self, target: Any) -> None:
        obj = self.objects.get((target.kind, target.name))
        if obj is None or obj["metadata"]["uid"] != target.uid:
            return
        if target.kind == "Pod":
            obj["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
        else:
            del self.objects[target.kind, target.name]

    def _apply(self, obj: Object) -> None:
        key = (obj["kind"], obj["metadata"]["name"])
        if key in self.objects:
            self.objects[key]["spec"] = copy.deepcopy(obj["spec"])
            self.objects[key]["metadata"]["annotations"] = dict(obj["metadata"]["annotations"])
            return
        if obj["kind"] == "Job":
            labels = obj["metadata"]["labels"]
            alive = [
                pod["metadata"]["name"]
                for pod in self.pods(labels[LABEL + "role"])
                if pod["status"]["phase"] not in ("Succeeded", "Failed")
                and pod["metadata"]["labels"][LABEL + "attempt"] != labels[LABEL + "attempt"]
            ]
            assert not alive, f"{key[1]} is made while {alive} of another attempt still live"
            assert key[1] not in self.created, f"{key[1]} is made twice"
            self.created.append(key[1])
        self.objects[key] = {**copy.deepcopy(obj), "status": {}}
        self.objects[key]["metadata"]["uid"] = self._uid()

    def _status(self, decision: Decision) -> None:
        before, after = self.status, stored(decision.status)
        assert after.get("attempt", 0) >= before.get("attempt", 0), "attempt never falls"
        if before.get("phase") in ("Succeeded", "Failed"):
            assert after["phase"] == before["phase"], "an end is an end"
        self.run["status"] = after
        self.events += [event.reason for event in decision.events]

    def _uid(self) -> str:
        self.serial += 1
        return f"uid-{self.serial}"

    def controllers(self) -> None:
        """Jobs and StatefulSets make pods, Jobs follow their pods, orphans are collected, deleted pods end."""
        for (kind, name), obj in list(self.objects.items()):
            if kind == "Job":
                self._job(name, obj)
            elif kind == "StatefulSet":
                for index in range(obj["spec"]["replicas"]):
                    if ("Pod", f"{name}-{index}") not in self.objects:
                        self._pod(f"{name}-{index}", obj)
        for (kind, _), obj in list(self.objects.items()):
            if kind == "Pod":
                owner = obj["metadata"]["ownerReferences"][0]["uid"]
                if all(other["metadata"]["uid"] != owner for other in self.objects.values()):
                    obj["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")

    def reap(self) -> None:
        """Pods that were asked to go are gone."""
        for (kind, name), obj in list(self.objects.items()):
            if kind == "Pod" and obj["metadata"].get("deletionTimestamp"):
                del self.objects[kind, name]

    def _job(self, name: str, job: Object) -> None:
        pods = [pod for pod in self.pods() if pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]]
        phases = {pod["status"]["phase"] for pod in pods}
        if job["status"].get("conditions"):
            return
        if "Succeeded" in phases:
            job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
        elif "Failed" in phases:
            job["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
        elif not pods:
            self._pod(f"{name}-{self.serial}", job)

    def _pod(self, name: str, owner: Object) -> None:
        template = owner["spec"]["template"]
        self.objects["Pod", name] = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": self._uid(),
                "labels": dict(template["metadata"]["labels"]),
                "ownerReferences": [{"uid": owner["metadata"]["uid"]}],
            },
            "spec": {},
            "status": {"phase": "Pending"},
        }

    def start(self, pod: Object) -> None:
        """A pending pod runs."""
        if pod["status"]["phase"] == "Pending":
            pod["spec"]["nodeName"] = "node1"
            pod["status"] = {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"state": {"running": {}}}],
            }

    def end(self, pod: Object, code: int) -> None:
        """A living pod's process ends; servers are restarted in place."""
        if pod["status"]["phase"] in ("Succeeded", "Failed"):
            return
        terminated = {"exitCode": code, "message": "", "finishedAt": self.now.isoformat()}
        if ("StatefulSet", pod["metadata"]["name"].rpartition("-")[0]) in self.objects:
            count = (pod["status"].get("containerStatuses") or [{}])[0].get("restartCount", 0)
            state = {"state": {"running": {}}, "lastState": {"terminated": terminated}, "restartCount": count + 1}
            pod["spec"]["nodeName"] = "node1"
            ready = [{"type": "Ready", "status": "True"}]
            pod["status"] |= {"phase": "Running", "conditions": ready, "containerStatuses": [state]}
            return
        pod["status"] = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"state": {"terminated": terminated}}],
        }

    def finish(self) -> None:
        """Tasks end well, and everything is taken down."""
        for _ in range(10):
            for pod in self.pods():
                if ("StatefulSet", pod["metadata"]["name"].rpartition("-")[0]) not in self.objects:
                    self.end(pod, 0)
            self.controllers()
            self.operator()
            self.reap()
        assert self.status["phase"] == "Succeeded", self.status

    def _check(self) -> None:
        living: dict[str, set[str]] = {}
        for pod in self.pods():
            labels = pod["metadata"]["labels"]
            if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                living.setdefault(labels[LABEL + "role"], set()).add(labels[LABEL + "attempt"])
        for role, attempts in living.items():
            assert len(attempts) == 1, f"{role} lives in attempts {attempts} at once"

    def settle(self, code: int | None = 0, passes: int = 300) -> None:
        """No more bad luck: everything runs, tasks end with ``code``; until nothing changes any more."""
        for _ in range(passes):
            self.now += timedelta(seconds=30)
            self.controllers()
            for pod in self.pods():
                self.start(pod)
                server = ("StatefulSet", pod["metadata"]["name"].rpartition("-")[0]) in self.objects
                if code is not None and not server and self.status.get("phase") == "Running":
                    self.end(pod, code)
            self.reap()
            self.controllers()
            if not self.operator() and (self.decide().wake_after or 600.0) >= 600.0:  # limits are far off
                return
        raise AssertionError(f"does not settle: {self.status.get('phase')} {self.status.get('message')}")
