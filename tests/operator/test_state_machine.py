"""Whatever happens, in whatever order: hypothesis plays fate with one run, and the planner keeps its promises.

The promises: one attempt of a gang at a time; attempts never fall; an end is an end; nothing is made before the
status that announces it is stored; a suspended run has no pod; when nothing happens any more, nothing is written any
more, and time alone changes nothing before the moment that the planner asked to be woken at. `Simulation` checks the
first of them at every step.

QED_STATE_MACHINE_EXAMPLES runs more lives than the few that every run of the tests can afford.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from qednano_operator.decision import Decision, Defaults, Object
from qednano_operator.retention import FINALIZER
from qednano_operator.status import difference, stored
from qednano_operator.subject import read_status

from qednano.progress import ProgressReport
from tests.operator.simulation import Plan, Simulation

_EXAMPLES = int(os.environ.get("QED_STATE_MACHINE_EXAMPLES", "50"))
_STEPS = 50
_PASSES = 600  # in which a run has to come to rest
_ENDS = [0, 1, 64, 69, 70, 71, 74, 75, 76, 78, 137, 143]
_KUEUE = {"kueue": "v1beta2", "flavors": {"spot": {"spec": {"nodeLabels": {"pool": "spot"}}}}}
_ENDED = ("Succeeded", "Failed")

_RESTARTS = st.fixed_dictionaries(
    {
        "maxRestarts": st.sampled_from([0, 1, 3, 100]),
        "backoffSeconds": st.sampled_from([0, 10]),
        "maxBackoffSeconds": st.sampled_from([0, 60]),
    }
)
_LIMITS = st.sampled_from(
    [
        {},
        {"stallSeconds": 600, "onStall": "Restart"},
        {"stallSeconds": 0},
        {"activeDeadlineSeconds": 7200},
    ]
)
_JUMPS = st.sampled_from([1, 10, 61, 301, 3600, 86400, -1, -10, -3600, -7200])


def happens(**arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule after which the operator may have its turn at once, as it has when a watch tells it what happened."""

    def with_turn(method: Callable[..., None]) -> Callable[..., None]:
        @wraps(method)
        def step(fate: Fate, then: str, **drawn: Any) -> None:
            method(fate, **drawn)
            if then == "pass":
                fate.one_pass(None)
            elif then == "passes":
                fate.passes(5)
            elif then == "all":
                fate.go_on()

        found: Callable[..., None] = rule(then=st.sampled_from(["", "pass", "passes", "all"]), **arguments)(step)
        return found

    return with_turn


class Fate(RuleBasedStateMachine):
    """One run from its creation to where it comes to rest."""

    simulation: Simulation
    plan: Plan | None  # taken, and not carried out yet

    @initialize(
        kind=st.sampled_from(["SFTRun", "RLRun", "EvalRun", "ProofDataset"]),
        job_sets=st.booleans(),
        queued=st.booleans(),
        kept=st.booleans(),
        restart=_RESTARTS,
        limits=_LIMITS,
        ttl=st.sampled_from([None, 0, 3600]),
        begins=st.sampled_from(["running", "running", "untold", "fresh"]),
    )
    def create(
        self,
        kind: str,
        job_sets: bool,
        queued: bool,
        kept: bool,
        restart: Any,
        limits: Any,
        ttl: int | None,
        begins: str,
    ) -> None:
        """Somebody applies a manifest; fate begins when the run runs, or its pods do, untold, or at once."""
        spec: dict[str, Any] = {"restart": restart, "limits": limits}
        if kind in ("SFTRun", "RLRun"):
            steps = {"maxSteps": 10} if kind == "SFTRun" else {}
            spec["trainer"] = {**steps, "nodes": 2, "resources": {"gpus": 1}}
        if queued:
            spec["scheduling"] = {"queueName": "team"}
        if not kept:
            spec["artifacts"] = {"retention": "Delete"}
        if ttl is not None:
            spec["ttlSecondsAfterFinished"] = ttl
        self.simulation = Simulation.of(kind, **spec)
        self.simulation.defaults = Defaults(job_sets=job_sets)
        self.simulation.around = dict(_KUEUE)
        self.plan = None
        self.simulation.lags = begins == "untold"
        if begins == "untold":
            self.go_on()
        while begins == "running" and self.simulation.status.get("phase") != "Running":
            self.go_on()

    # the operator

    @rule(crash_after=st.one_of(st.none(), st.integers(0, 8)))
    def one_pass(self, crash_after: int | None) -> None:
        """A pass, cut off after some calls when the operator is killed: it remembers nothing."""
        self.plan = None
        self.simulation.operator(crash_after)

    @rule(count=st.integers(2, 5))
    def passes(self, count: int) -> None:
        """Several passes, before anybody else has a turn."""
        for _ in range(count):
            self.one_pass(None)

    @precondition(lambda self: not self.simulation.gone)
    @rule()
    def decide(self) -> None:
        """A decision is taken; things may happen until it is carried out."""
        self.plan = self.simulation.plan()

    @precondition(lambda self: self.plan is not None)
    @rule(crash_after=st.one_of(st.none(), st.integers(0, 8)))
    def carry_out(self, crash_after: int | None) -> None:
        """A decision that may be outdated is carried out, wholly or in part."""
        assert self.plan is not None
        self.simulation.carry_out(self.plan, crash_after)
        self.plan = None

    # the cluster

    @rule()
    def controllers(self) -> None:
        """Kubernetes' controllers have their turn."""
        self.simulation.controllers()

    @rule()
    def reap(self) -> None:
        """Kubelets finish what was asked to end."""
        self.simulation.reap()

    def _pick(self, number: int) -> Object | None:
        pods = self.simulation.pods()
        return pods[number % len(pods)] if pods else None

    @rule()
    def all_start(self) -> None:
        """Every pod runs."""
        for pod in self.simulation.pods():
            self.simulation.start(pod)

    @rule()
    def go_on(self) -> None:
        """Everybody does what they should."""
        for _ in range(4):
            if self.simulation.kueue() is not None:
                self.simulation.says(QuotaReserved=True, Admitted=True, Evicted=False)
            self.one_pass(None)
            self.reap()
            self.controllers()
            self.all_start()

    @happens(number=st.integers(0, 9))
    def start(self, number: int) -> None:
        """A pod runs."""
        if pod := self._pick(number):
            self.simulation.start(pod)

    @happens(number=st.integers(0, 9), code=st.sampled_from(_ENDS), memory=st.booleans())
    def end(self, number: int, code: int, memory: bool) -> None:
        """A process ends."""
        if (pod := self._pick(number)) and pod["metadata"]["uid"] not in self.simulation.stuck:
            self.simulation.end(pod, code)
            for container in pod["status"].get("containerStatuses") or []:
                for state in ("state", "lastState"):
                    if memory and code == 137 and "terminated" in container.get(state, {}):
                        container[state]["terminated"]["reason"] = "OOMKilled"

    @happens(number=st.integers(0, 9), code=st.sampled_from(_ENDS))
    def end_unseen(self, number: int, code: int) -> None:
        """A process ends so soon that its Job says so before the operator is told of its pod."""
        self.simulation.controllers()
        if pod := self._pick(number):
            self.simulation.end_unseen(pod, code)

    def tell_all(self) -> None:
        """The watch of pods is up to date again."""
        self.simulation.hidden.clear()
        self.simulation.lags = False

    @happens()
    def tell(self) -> None:
        """The watch of pods catches up."""
        self.tell_all()

    @rule()
    def lag(self) -> None:
        """The watch of pods falls behind: those that are made are told of later."""
        self.simulation.lags = True

    @happens(number=st.integers(0, 9), words=st.sampled_from(["0/9 nodes are available", "0/7 nodes are available"]))
    def unschedulable(self, number: int, words: str) -> None:
        """The scheduler finds no node."""
        if (pod := self._pick(number)) and pod["status"]["phase"] == "Pending":
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
            pod["status"]["conditions"] = [condition]

    @happens(number=st.integers(0, 9), reason=st.sampled_from(["ErrImagePull", "ImagePullBackOff"]))
    def image_missing(self, number: int, reason: str) -> None:
        """The node can't pull the image."""
        if (pod := self._pick(number)) and pod["status"]["phase"] == "Pending":
            pod["spec"]["nodeName"] = "node1"
            waiting = {"waiting": {"reason": reason, "message": "not found"}}
            pod["status"]["containerStatuses"] = [{"state": waiting, "image": "registry/worker:1"}]

    @happens(number=st.integers(0, 9), reason=st.sampled_from(["Evicted", "Preempting", "NodeShutdown"]))
    def evict(self, number: int, reason: str) -> None:
        """A node gets rid of a pod."""
        if (pod := self._pick(number)) and pod in self.simulation.living():
            pod["status"] |= {"phase": "Failed", "reason": reason, "message": "the node is short of memory"}

    @happens(number=st.integers(0, 9))
    def delete_pod(self, number: int) -> None:
        """Somebody deletes a pod, or drains its node."""
        if pod := self._pick(number):
            self.simulation.terminate(pod)

    @happens(number=st.integers(0, 9))
    def lose_pod(self, number: int) -> None:
        """A pod's node is dead: the pod is asked to go and nobody says that it ended."""
        if (pod := self._pick(number)) and pod in self.simulation.living():
            pod["spec"]["nodeName"] = "node1"
            self.simulation.stuck.add(pod["metadata"]["uid"])
            self.simulation.terminate(pod)

    @happens(number=st.integers(0, 9))
    def vanish(self, number: int) -> None:
        """A pod's object is removed by force; its Job has counted it when it had ended."""
        self.simulation.count()
        if pod := self._pick(number):
            del self.simulation.objects["Pod", pod["metadata"]["name"]]

    @happens(number=st.integers(0, 20))
    def delete_child(self, number: int) -> None:
        """Somebody deletes an object of the run that isn't a gang's own."""
        kinds = ("StatefulSet", "Service", "NetworkPolicy", "Workload")
        keys = [key for key in self.simulation.objects if key[0] in kinds]
        if keys:
            del self.simulation.objects[keys[number % len(keys)]]

    @precondition(lambda self: self.simulation.kueue() is not None)
    @happens(says=st.sampled_from(["admit", "evict", "reserve"]))
    def kueue(self, says: str) -> None:
        """Kueue has its turn."""
        if says == "admit":
            self.simulation.says(QuotaReserved=True, Admitted=True, Evicted=False)
        elif says == "evict":
            self.simulation.says(Evicted=True)
        else:
            self.simulation.says(QuotaReserved=True)

    @happens(pods=st.sampled_from([None, "0", "1"]))
    def quota(self, pods: str | None) -> None:
        """The administrator sets a quota, or lifts it."""
        hard = {"pods": pods}
        found = {"metadata": {"name": "team"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": {}}}
        self.simulation.around = {**_KUEUE, **({"quotas": (found,)} if pods else {})}

    @happens(seconds=_JUMPS)
    def clock(self, seconds: int) -> None:
        """Time passes, or the operator moves to a node with another clock."""
        self.simulation.now += timedelta(seconds=seconds)

    @happens(step=st.integers(0, 10), saved=st.booleans())
    def report(self, step: int, saved: bool) -> None:
        """The trainer tells how far it is."""
        now = self.simulation.now.timestamp()
        found = ProgressReport(step=step, total=10, updated=now, checkpointed=now if saved else 0.0)
        self.simulation.reports = {"trainer": found, "evaluate": found, "dataset": found}

    # people

    def _change(self, **fields: Any) -> None:
        self.simulation.run["spec"] |= fields
        self.simulation.run["metadata"]["generation"] += 1

    @happens(value=st.booleans())
    def suspend(self, value: bool) -> None:
        """spec.suspend is set."""
        self._change(suspend=value)

    @happens()
    def cancel(self) -> None:
        """spec.cancel is set."""
        self._change(cancel=True)

    @precondition(lambda self: self.simulation.run["kind"] == "RLRun")
    @happens(replicas=st.integers(1, 4))
    def scale(self, replicas: int) -> None:
        """kubectl scale."""
        self._change(rollout={"replicas": replicas})

    @happens(seed=st.integers(-1, 3))
    def change(self, seed: int) -> None:
        """A field is changed that a started run keeps; -1 is no valid value."""
        self._change(seed=seed)

    @happens(worker=st.sampled_from(["", "registry/worker:2"]))
    def correct_image(self, worker: str) -> None:
        """Somebody names another image."""
        self._change(images={"worker": worker, "trainer": worker, "server": worker})

    @precondition(lambda self: not self.simulation.gone)
    @happens(certainly=st.integers(0, 5))
    def delete(self, certainly: int) -> None:
        """kubectl delete; seldom, since little happens afterwards."""
        if certainly == 5:
            self.simulation.remove()

    # what holds at any time, beside what Simulation checks itself

    @invariant()
    def a_suspended_run_has_no_pod(self) -> None:
        """Not even one that is about to end."""
        if self.simulation.status.get("phase") == "Suspended":
            assert not self.simulation.living()

    @invariant()
    def waits_are_bounded(self) -> None:
        """No clock makes the planner sleep for long."""
        if self.simulation.gone:
            return
        wait = self.simulation.decide().wake_after
        assert wait is None or 0 <= wait <= 3600, f"it wants to be woken in {wait} s"

    def teardown(self) -> None:
        """Nothing more happens, and the run rests; then all goes well, and it ends."""
        if not hasattr(self, "simulation"):
            return
        self.tell_all()
        self._rest()
        simulation = self.simulation
        if simulation.gone or simulation.run["metadata"].get("deletionTimestamp"):
            assert simulation.gone, f"the finalizer {FINALIZER} is never taken off"
            left = {kind for kind, _ in simulation.objects}
            assert left <= {"Job", "Pod"}, left
            assert {pod["metadata"]["uid"] for pod in simulation.living()} <= simulation.stuck  # Kubernetes' to clear
            return
        spec = simulation.run["spec"]
        valid = spec.get("seed") != -1  # a change to a spec that is not valid has no effect, as the run says
        if spec.get("suspend") and valid and simulation.status["phase"] not in _ENDED:
            assert simulation.status["phase"] in ("Suspended", "Pending"), simulation.status["phase"]
            assert not simulation.living()
        self._end_well()
        assert simulation.gone or simulation.status["phase"] in _ENDED, f"it does not end: {simulation.status}"
        if not simulation.gone:
            assert not simulation.living()
            assert not {kind for kind, _ in simulation.objects} & {"StatefulSet", "Service"}
        assert len(str(simulation.status)) < 16384

    def _writes(self, decision: Decision) -> bool:
        """Whether the operator would do more than count GPU time, which it does as long as a run holds GPUs."""
        before, after = stored(read_status(self.simulation.run)), stored(decision.status)
        changed = set(difference(before, after)) - {"usage"}
        acts = (decision.delete, decision.apply, decision.patch, decision.ask)
        return any(acts) or decision.finalizers is not None or bool(changed)

    def _rest(self) -> None:
        """Passes until a fixed point; the clock goes on only when nothing else does."""
        simulation = self.simulation
        for _ in range(_PASSES):
            simulation.controllers()
            simulation.reap()
            simulation.controllers()
            if simulation.gone:
                return
            plan = simulation.plan()
            if self._writes(plan.decision):
                simulation.carry_out(plan)
                continue
            wait = plan.decision.wake_after
            simulation.now += timedelta(seconds=wait / 2 if wait else 40 * 86400)
            assert not self._writes(simulation.decide()), f"time alone changes what to do, and it is woken in {wait} s"
            if wait is None:
                return
            simulation.now += timedelta(seconds=wait / 2 + 0.001)
        raise AssertionError(f"it does not come to rest: {simulation.status}")

    def _end_well(self) -> None:
        """No more bad luck: quota is there, pods run, tasks end with 0."""
        simulation = self.simulation
        simulation.around = dict(_KUEUE)
        self._change(suspend=False, seed=0, limits={})
        for _ in range(_PASSES):
            if simulation.kueue() is not None:
                simulation.says(QuotaReserved=True, Admitted=True, Evicted=False)
            for pod in simulation.pods():
                owner = pod["metadata"]["name"].rpartition("-")[0]
                simulation.start(pod)
                if ("StatefulSet", owner) not in simulation.objects and simulation.status.get("phase") == "Running":
                    simulation.end(pod, 0)
            self._rest()
            if simulation.gone or simulation.status["phase"] in _ENDED:
                return


Fate.TestCase.settings = settings(
    max_examples=_EXAMPLES,
    stateful_step_count=_STEPS,
    deadline=None,
    phases=[Phase.reuse, Phase.generate, *([Phase.shrink] if _EXAMPLES > 50 else [])],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestFate = Fate.TestCase
