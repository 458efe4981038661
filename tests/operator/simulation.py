"""A cluster in memory, just enough to run ``reconcile`` through crashes and bad luck thousands of times a minute.

It plays what the API server, the Job and StatefulSet controllers, the garbage collector and the kubelet do to the
objects of one run. The operator's part is the real ``reconcile``; a crash cuts a decision off between two calls.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from qednano_operator.attempts import role_attempt
from qednano_operator.cache import compact
from qednano_operator.decision import Decision, Defaults, Object, World
from qednano_operator.reconcile import reconcile
from qednano_operator.status import difference, stored
from qednano_operator.subject import read_status

from qednano.progress import ProgressReport
from tests.operator.harness import manifest

LABEL = "qednano.dev/"


class Stale(Exception):
    """The API server refuses a write: the object has changed since it was read."""


@dataclass(frozen=True)
class Plan:
    """A decision, and the run as it was when it was taken."""

    decision: Decision
    run: Object


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
    defaults: Defaults = field(default_factory=Defaults)
    around: dict[str, Any] = field(default_factory=dict)  # further fields of the World: quotas, Kueue and its flavors
    stuck: set[str] = field(default_factory=set)  # uids of pods whose node is dead: they go by force only
    gone: bool = False  # the run itself is deleted
    told: set[str] = field(default_factory=set)  # uids of pods that the operator has known
    hidden: set[str] = field(default_factory=set)  # those that their watch is slow to tell of
    lags: bool = False  # whether it will be slow to tell of each pod that is made
    asked: set[str] = field(default_factory=set)  # uids as in World

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

    def living(self) -> list[Object]:
        """Pods that may hold resources or write; without that of the cleanup, which outlives the run."""
        return [
            pod
            for pod in self.pods()
            if pod["status"]["phase"] not in ("Succeeded", "Failed")
            and pod["metadata"]["labels"][LABEL + "role"] != "cleanup"
        ]

    def decide(self) -> Decision:
        """What the operator would do now."""
        seen = [obj for obj in self.objects.values() if obj["metadata"]["uid"] not in self.hidden]
        self.told |= {obj["metadata"]["uid"] for obj in seen if obj["kind"] == "Pod"}
        children = tuple(compact(obj["kind"], obj) for obj in seen)
        return reconcile(
            copy.deepcopy(self.run),
            World(children, runs=self.others, reports=self.reports, asked=self.asked, **self.around),
            self.now,
            self.defaults,
        )

    def plan(self) -> Plan:
        """What the operator would do now, to be carried out now or later."""
        return Plan(self.decide(), copy.deepcopy(self.run))

    def operator(self, crash_after: int | None = None) -> bool:
        """One pass, with those that only ask before it, cut off after so many calls; whether it did anything."""
        if self.gone:
            return False
        plan = self.plan()
        for _ in range(3 if crash_after is None else 0):
            if not plan.decision.ask:
                break
            self.carry_out(plan)
            plan = self.plan()
        return self.carry_out(plan, crash_after)

    def carry_out(self, plan: Plan, crash_after: int | None = None) -> bool:
        """What the engine does with a decision, cut off after so many calls; whether there were any."""
        decision = plan.decision
        calls: list[tuple[str, Any]] = [("ask", item) for item in decision.ask]
        calls += [("delete", target) for target in decision.delete] + [("apply", obj) for obj in decision.apply]
        calls += [("patch", patch) for patch in decision.patch]
        if decision.finalizers is not None:
            calls.append(("finalizers", plan))
        elif difference(stored(read_status(plan.run)), stored(decision.status)):
            calls.append(("status", plan))
        for verb, what in calls[:crash_after]:
            try:
                getattr(self, f"_{verb}")(what)
            except Stale:
                break  # the pass ends here, and the next one sees what is there now
        self._check()
        return bool(calls)

    def _ask(self, question: Any) -> None:
        wanted = {LABEL + "role": question.role, LABEL + "attempt": str(question.attempt)} if question.role else {}
        found = [pod for pod in self.pods() if wanted.items() <= pod["metadata"]["labels"].items()]
        self.hidden -= {pod["metadata"]["uid"] for pod in found}
        self.asked |= question.answers

    def end_unseen(self, pod: Object, code: int) -> None:
        """A pod starts and ends, which its Job tells sooner than its own watch; nothing, if the pod is known."""
        if pod["metadata"]["uid"] not in self.told | self.stuck:
            self.start(pod)
            self.end(pod, code)
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                self.hidden.add(pod["metadata"]["uid"])
            self.count()

    def _unchanged(self, plan: Plan) -> None:
        if self.gone or plan.run != self.run:
            raise Stale

    def _finalizers(self, plan: Plan) -> None:
        self._unchanged(plan)
        self.run["metadata"]["finalizers"] = list(plan.decision.finalizers or ())
        self.gone = bool(self.run["metadata"].get("deletionTimestamp")) and not plan.decision.finalizers
        self.events += [event.reason for event in plan.decision.events]

    def remove(self) -> None:
        """Somebody deletes the run."""
        self.run["metadata"].setdefault("deletionTimestamp", self.now.isoformat())
        self.gone = not self.run["metadata"].get("finalizers")

    def _delete(self, target: Any) -> None:
        if target.uid == self.run["metadata"]["uid"]:
            self.remove()
        obj = self.objects.get((target.kind, target.name))
        if obj is None or obj["metadata"]["uid"] != target.uid:
            return
        if target.kind == "Pod" and not target.force:
            self.terminate(obj)
        else:
            del self.objects[target.kind, target.name]

    def terminate(self, pod: Object) -> None:
        """The pod is asked to go."""
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        pod["metadata"].setdefault("deletionTimestamp", (self.now + timedelta(seconds=grace)).isoformat())

    def _apply(self, obj: Object) -> None:
        key = (obj["kind"], obj["metadata"]["name"])
        if key in self.objects:
            if obj["kind"] in ("StatefulSet", "Service"):
                self.objects[key]["spec"] = copy.deepcopy(obj["spec"])
                self.objects[key]["metadata"]["annotations"] = dict(obj["metadata"]["annotations"])
            return
        self._check_intent(obj)
        cleanup = obj["metadata"]["labels"].get(LABEL + "role") == "cleanup"
        queued = self.run["spec"].get("scheduling", {}).get("queueName") and not cleanup
        if obj["kind"] in ("Job", "StatefulSet") and queued:
            found = {
                item["type"]: item["status"] for item in (self.kueue() or {}).get("status", {}).get("conditions", [])
            }
            assert found.get("Admitted") == "True" and found.get("Evicted") != "True", f"{key[1]} is made unadmitted"
        if obj["kind"] in ("Job", "JobSet"):
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

    def _patch(self, patch: Any) -> None:
        obj = self.objects.get((patch.kind, patch.name))
        if obj is None or obj["metadata"].get("resourceVersion", "") != patch.version:
            raise Stale
        for key, value in patch.status.items():
            if value is None:
                obj["status"].pop(key, None)
            else:
                obj["status"][key] = copy.deepcopy(value)
        self._touch(obj)

    def _touch(self, obj: Object) -> None:
        self.serial += 1
        obj["metadata"]["resourceVersion"] = str(self.serial)

    def kueue(self) -> Object | None:
        """The run's Workload."""
        return next((obj for (kind, _), obj in self.objects.items() if kind == "Workload"), None)

    def says(self, **conditions: bool) -> None:
        """Kueue sets conditions of the Workload; an admission comes with Admitted and stays until it is given back."""
        workload = self.kueue()
        assert workload is not None
        status = workload["status"]
        known = {item["type"]: item for item in status.setdefault("conditions", [])}
        for name, value in conditions.items():
            known[name] = {
                "type": name,
                "status": "True" if value else "False",
                "reason": "Preempted" if name == "Evicted" else name,
                "message": f"{name} {value}",
                "lastTransitionTime": self.now.isoformat(),
            }
        status["conditions"] = list(known.values())
        if conditions.get("Admitted"):
            status["admission"] = {
                "clusterQueue": "team",
                "podSetAssignments": [
                    {"name": item["name"], "count": item["count"], "flavors": {"cpu": "spot"}}
                    for item in workload["spec"]["podSets"]
                ],
            }
        self._touch(workload)

    def _status(self, plan: Plan) -> None:
        self._unchanged(plan)
        decision = plan.decision
        before, after = self.status, stored(decision.status)
        assert after.get("attempt", 0) >= before.get("attempt", 0), "attempt never falls"
        if before.get("phase") in ("Succeeded", "Failed"):
            assert after["phase"] == before["phase"], "an end is an end"
        for ended in after.get("attempts", [])[len(before.get("attempts", [])) :]:
            wanted = {LABEL + "role": ended.get("role"), LABEL + "attempt": str(ended["number"])}
            there = [pod for pod in self.pods() if wanted.items() <= pod["metadata"]["labels"].items()]
            alone = not any(pod["status"]["phase"] == "Failed" for pod in there)
            assert ended["reason"] != "PodLost" or alone, "a pod that failed is no lost one"
        self.run["status"] = after
        self.events += [event.reason for event in decision.events]

    def _uid(self) -> str:
        self.serial += 1
        return f"uid-{self.serial}"

    def controllers(self) -> None:
        """Jobs and StatefulSets make pods, Jobs follow their pods, orphans are collected, deleted pods end."""
        for (kind, name), obj in list(self.objects.items()):
            if kind != "Pod" and self._is_orphan(obj):
                del self.objects[kind, name]
        for (kind, name), obj in list(self.objects.items()):
            if kind == "JobSet":
                self._job_set(name, obj)
        self.count()
        for (kind, name), obj in list(self.objects.items()):
            if kind == "Job" and not obj["status"].get("conditions") and not self._pods_of(obj):
                self._pod(f"{name}-{self.serial}", obj)
            elif kind == "StatefulSet":
                for index in range(obj["spec"]["replicas"]):
                    there = self.objects.get(("Pod", f"{name}-{index}"))
                    if there is None or there["status"]["phase"] in ("Succeeded", "Failed"):
                        self._pod(f"{name}-{index}", obj)
        for (kind, _), obj in list(self.objects.items()):
            if kind == "Pod":
                owner = obj["metadata"]["ownerReferences"][0]["uid"]
                if all(other["metadata"]["uid"] != owner for other in self.objects.values()):
                    self.terminate(obj)

    def reap(self) -> None:
        """Pods that were asked to go are gone. One that had ended goes only after its Job has counted it."""
        self.count()
        for (kind, name), obj in list(self.objects.items()):
            if kind == "Pod" and obj["metadata"].get("deletionTimestamp") and obj["metadata"]["uid"] not in self.stuck:
                del self.objects[kind, name]

    def _is_orphan(self, obj: Object) -> bool:
        if "ownerReferences" not in obj["metadata"]:
            return False  # nobody's, so nobody's end is its own
        owners = {owner["uid"] for owner in obj["metadata"]["ownerReferences"]}
        run = set() if self.gone else {self.run["metadata"]["uid"]}
        return not owners & {*run, *(other["metadata"]["uid"] for other in self.objects.values())}

    def _check_intent(self, obj: Object) -> None:
        """What is made follows from a status that is stored."""
        labels, status = obj["metadata"]["labels"], read_status(self.run)
        if obj["kind"] == "Workload" or labels.get(LABEL + "role") == "cleanup":
            return  # what asks for quota comes before the start, and what cleans up after the end
        assert status.start_time, f"{obj['kind']} {obj['metadata']['name']} is made before the start is stored"
        if obj["kind"] in ("Job", "JobSet"):
            attempt = role_attempt(status, labels[LABEL + "role"])
            assert int(labels[LABEL + "attempt"]) == attempt, f"{obj['metadata']['name']} is made before its attempt"

    def _job_set(self, name: str, job_set: Object) -> None:
        """What JobSet's controller does: it makes its Jobs, makes them anew when they are gone, and fails with one."""
        if job_set["status"].get("conditions"):
            return
        jobs = []
        for item in job_set["spec"]["replicatedJobs"]:
            key = ("Job", f"{name}-{item['name']}-0")
            if key not in self.objects:
                assert key[1] not in self.created, f"{key[1]} is made twice"
                self.created.append(key[1])
                template = copy.deepcopy(item["template"])
                meta = {
                    **template["metadata"],
                    "name": key[1],
                    "namespace": "ns",
                    "uid": self._uid(),
                    "ownerReferences": [{"uid": job_set["metadata"]["uid"]}],
                }
                self.objects[key] = {"kind": "Job", "metadata": meta, "spec": template["spec"], "status": {}}
            jobs.append(self.objects[key])
        said = [item["type"] for job in jobs for item in job["status"].get("conditions", [])]
        if "Failed" in said:
            job_set["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "FailedJobs"}]
            for job in jobs:
                if not job["status"].get("conditions"):
                    del self.objects["Job", job["metadata"]["name"]]
        elif said.count("Complete") == len(jobs):
            job_set["status"]["conditions"] = [{"type": "Completed", "status": "True"}]

    def count(self) -> None:
        """Jobs count their pods that have ended."""
        for (kind, _), job in self.objects.items():
            if kind != "Job" or job["status"].get("conditions"):
                continue
            phases = {pod["status"]["phase"] for pod in self._pods_of(job)}
            if "Succeeded" in phases:
                job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
            elif "Failed" in phases:
                failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
                job["status"]["conditions"] = [failed]

    def _pods_of(self, job: Object) -> list[Object]:
        return [pod for pod in self.pods() if pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]]

    def _pod(self, name: str, owner: Object) -> None:
        template, uid = owner["spec"]["template"], self._uid()
        if self.lags:
            self.hidden.add(uid)
        self.objects["Pod", name] = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": uid,
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
        for pod in self.living():
            labels = pod["metadata"]["labels"]
            living.setdefault(labels[LABEL + "role"], set()).add(labels[LABEL + "attempt"])
        for role, attempts in living.items():
            assert len(attempts) == 1, f"{role} lives in attempts {attempts} at once"
        assert not living or self.status.get("phase") != "Suspended", f"suspended with pods of {sorted(living)}"

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
