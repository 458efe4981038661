"""Quota seen before the start, and the handshake with Kueue, decided on a cluster in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qednano_operator.quota import amount, need, shortages, shown

from tests.operator.simulation import Simulation
from tests.operator.test_manifests import objects, pod_of

TRAINER = {"maxSteps": 1, "nodes": 2, "resources": {"cpu": "500m", "memory": "8Gi", "gpus": 4}}
NO_WAIT = {"maxRestarts": 3, "backoffSeconds": 0, "maxBackoffSeconds": 0}


def quota(name: str = "team", used: dict[str, str] | None = None, **hard: str) -> dict[str, Any]:
    """A ResourceQuota as the API server counts it; '_' stands for '.' in names of resources."""
    limits = {key.replace("_", "."): value for key, value in hard.items()}
    return {"metadata": {"name": name}, "spec": {"hard": limits}, "status": {"hard": limits, "used": used or {}}}


GPUS = "requests.nvidia.com/gpu"


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), ("2", "2"), ("1Gi", "1073741824"), ("3k", "3000"), ("1.5", "1.5"), ("x", "0")]
)
def test_quantities_are_read_as_kubernetes_does(text: str, value: str) -> None:
    assert f"{amount(text).normalize():f}" == value


def test_amounts_are_shown_as_people_write_them() -> None:
    assert shown(amount("16Gi"), "requests.memory") == "16Gi" and shown(amount("1536Mi"), "memory") == "1.5Gi"
    assert shown(amount("20"), GPUS) == "20"


def test_the_need_of_a_run_is_that_of_all_its_pods() -> None:
    found = objects("SFTRun", trainer=TRAINER)
    hard = quota(pods="9", cpu="9", memory="9Gi", limits_memory="9Gi", count_jobs="9")
    hard["status"]["hard"] |= {GPUS: "9", "count/jobs.batch": "9", "services": "9", "limits.cpu": "9"}
    used = {name: f"{value.normalize():f}" for name, value in need(found, hard).items()}
    assert used == {
        "pods": "2",
        "cpu": "1",
        "memory": f"{16 * 1024**3}",
        "limits.memory": f"{16 * 1024**3}",
        GPUS: "8",
        "count/jobs.batch": "2",
        "services": "1",
    }


@pytest.mark.parametrize(
    ("selector", "counts"),
    [
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopeSelector": {"matchExpressions": [_in := {"scopeName": "PriorityClass", "operator": "In"}]}}, False),
        ({"scopeSelector": {"matchExpressions": [{**_in, "values": ["research"]}]}}, True),
        ({"scopeSelector": {"matchExpressions": [{**_in, "operator": "NotIn", "values": ["research"]}]}}, False),
        ({"scopeSelector": {"matchExpressions": [{**_in, "operator": "Exists"}]}}, True),
        ({"scopeSelector": {"matchExpressions": [{**_in, "operator": "DoesNotExist"}]}}, False),
    ],
)
def test_a_scoped_quota_counts_the_pods_of_its_scope(selector: dict[str, Any], counts: bool) -> None:
    found = objects("SFTRun", scheduling={"priorityClassName": "research"})
    scoped = quota(pods="0")
    scoped["spec"] |= selector
    assert bool(shortages(found, [scoped])) is counts


def test_a_quota_that_is_not_counted_yet_holds_nobody_back() -> None:
    assert shortages(objects("SFTRun"), [{"metadata": {"name": "new"}, "spec": {"hard": {"pods": "0"}}}]) == []


def test_a_run_waits_for_a_quota_that_is_short_and_says_by_how_much() -> None:
    simulation = Simulation.of("SFTRun", trainer=TRAINER)
    short = quota(used={GPUS: "6"})
    short["status"]["hard"] = {GPUS: "10"}
    simulation.around = {"quotas": (short,)}
    simulation.operator()
    assert simulation.status["phase"] == "Queued"
    assert simulation.status["message"] == (f"ResourceQuota team has 4 of 10 {GPUS} left and the run needs 8: 4 short")
    (condition,) = [item for item in simulation.status["conditions"] if item["type"] == "QuotaReserved"]
    assert (condition["status"], condition["reason"]) == ("False", "QuotaExceeded")
    assert "startTime" not in simulation.status, "the spec may still change"
    assert not simulation.objects and simulation.events[-1] == "Queued"
    simulation.operator()
    assert not simulation.operator(), "waiting costs nothing"

    short["status"]["used"] = {GPUS: "2"}
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded" and "Admitted" in simulation.events


def test_a_smaller_wish_may_fit_while_the_run_waits() -> None:
    simulation = Simulation.of("SFTRun", trainer=TRAINER)
    simulation.around = {"quotas": (quota(pods="1"),)}
    simulation.operator()
    assert simulation.status["phase"] == "Queued"
    simulation.run["spec"]["trainer"] = {**TRAINER, "nodes": 1}
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded"


def test_a_resumed_run_waits_for_quota_that_others_took_meanwhile() -> None:
    simulation = Simulation.of("SFTRun", trainer=TRAINER)
    simulation.settle(code=None)
    simulation.run["spec"]["suspend"] = True
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Suspended"
    simulation.around = {"quotas": (quota(pods="1"),)}
    simulation.run["spec"]["suspend"] = False
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Queued" and not simulation.pods()
    assert "ResourceQuota team has 1 of 1 pods left" in simulation.status["message"]
    simulation.around = {}
    simulation.settle(code=None)
    assert (simulation.status["phase"], simulation.status["attempt"]) == ("Running", 2)


def test_a_run_whose_pods_are_refused_says_which_quota_refuses_them() -> None:
    simulation = Simulation.of("SFTRun", trainer={"maxSteps": 1})
    for _ in range(2):
        simulation.operator()  # the Job is there; another run was faster, so that no pod comes
    simulation.around = {"quotas": (quota(pods="3", used={"pods": "3"}),)}
    simulation.now += timedelta(seconds=1)
    assert simulation.decide().wake_after == 5, "not before controllers had their time"
    simulation.now += timedelta(seconds=10)
    simulation.operator()
    assert simulation.status["phase"] == "Starting"
    assert "pods can't be made: ResourceQuota team has 0 of 3 pods left" in simulation.status["message"]


# Kueue

QUEUED = {"queueName": "team", "priorityClassName": "research"}
KUEUE = {
    "kueue": "v1beta2",
    "flavors": {"spot": {"spec": {"nodeLabels": {"pool": "spot"}, "tolerations": [{"key": "spot"}]}}},
    "priorities": {"research": 1000},
}


def queued(kind: str = "RLRun", wish: dict[str, Any] | None = None, **spec: Any) -> Simulation:
    """A run in a queue, its Workload made and not admitted. ``wish``: further fields of its scheduling."""
    simulation = Simulation.of(kind, scheduling=QUEUED | (wish or {}), restart=NO_WAIT, **spec)
    simulation.around = dict(KUEUE)
    simulation.operator()
    return simulation


def running(**spec: Any) -> Simulation:
    """A run that was admitted and runs."""
    simulation = queued(**spec)
    simulation.says(QuotaReserved=True, Admitted=True)
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running"
    return simulation


def test_a_run_asks_for_all_its_roles_at_once_and_waits() -> None:
    simulation = queued(rollout={"replicas": 3})
    workload = simulation.kueue()
    assert workload is not None and list(simulation.objects) == [("Workload", "tiny-rlrun")]
    spec = workload["spec"]
    assert (spec["queueName"], spec["priority"]) == ("team", 1000)
    assert [(item["name"], item["count"]) for item in spec["podSets"]] == [("rollout", 3), ("trainer", 1), ("actor", 1)]
    (container,) = spec["podSets"][1]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"]
    simulation.operator()
    assert simulation.status["phase"] == "Queued"
    assert simulation.status["message"] == "waits for quota in LocalQueue team"
    simulation.says(QuotaReserved=False)
    simulation.operator()
    assert simulation.status["message"] == "waits for quota in LocalQueue team: QuotaReserved False"
    assert "startTime" not in simulation.status


def test_what_a_workload_asks_with_fits_the_schema_of_pods_which_kueues_own_contains() -> None:
    wish = {
        "topologyKey": "zone",
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "nodeSelector": {"gpu": "h100"},
    }
    workload = queued(trainer={"nodes": 2}, wish=wish).kueue()
    assert workload is not None and len(workload["spec"]["podSets"]) == 3
    for item in workload["spec"]["podSets"]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": item["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)
        assert not item["template"]["metadata"], "labels and annotations only are taken there"


def test_a_change_of_the_wish_while_it_waits_asks_anew() -> None:
    simulation = queued()
    first = simulation.kueue()
    simulation.run["spec"]["rollout"] = {"replicas": 2}
    simulation.operator()
    simulation.operator()
    second = simulation.kueue()
    assert first is not None and second is not None and second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["spec"]["podSets"][0]["count"] == 2


def test_an_admitted_run_starts_where_its_flavor_is() -> None:
    simulation = running()
    pod = simulation.objects["Job", "tiny-trainer-a1-0"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "spot"} and pod["tolerations"] == [{"key": "spot"}]
    servers = simulation.objects["StatefulSet", "tiny-rollout"]["spec"]["template"]["spec"]
    assert servers["nodeSelector"] == {"pool": "spot"}
    workload = simulation.kueue()
    assert workload is not None
    assert {item["type"]: item["status"] for item in workload["status"]["conditions"]}["PodsReady"] == "True"


def test_what_an_admission_check_asks_for_reaches_the_pods() -> None:
    simulation = queued()
    workload = simulation.kueue()
    assert workload is not None
    update = {"name": "trainer", "nodeSelector": {"node": "new"}, "annotations": {"a": "1"}, "labels": {"b": "2"}}
    workload["status"]["admissionChecks"] = [{"name": "prov", "state": "Ready", "podSetUpdates": [update]}]
    simulation.says(QuotaReserved=True, Admitted=True)
    simulation.settle(code=None)
    template = simulation.objects["Job", "tiny-trainer-a1-0"]["spec"]["template"]
    assert template["spec"]["nodeSelector"] == {"pool": "spot", "node": "new"}
    assert template["metadata"]["annotations"] == {"a": "1"} and template["metadata"]["labels"]["b"] == "2"
    assert "annotations" not in simulation.objects["Job", "tiny-actor-a1-0"]["spec"]["template"]["metadata"]


def test_an_unknown_flavor_is_waited_for() -> None:
    simulation = queued()
    simulation.around["flavors"] = {}
    simulation.says(QuotaReserved=True, Admitted=True)
    simulation.operator()
    assert simulation.status["phase"] == "Queued" and "ResourceFlavor spot" in simulation.status["message"]
    simulation.around["flavors"] = KUEUE["flavors"]
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running"


def test_an_evicted_run_stops_gives_its_quota_back_and_goes_on_when_admitted_again() -> None:
    simulation = running()
    simulation.says(Evicted=True)
    decision = simulation.decide()
    assert not decision.delete and decision.status.phase == "Queued", "the intent is stored first"
    simulation.operator()
    assert "evicted by Kueue (Preempted): Evicted True" in simulation.status["message"]
    simulation.operator()
    workload = simulation.kueue()
    assert workload is not None and workload["status"]["admission"], "the quota stays reserved while pods save"
    simulation.settle(code=None)
    assert not simulation.pods() and simulation.status["phase"] == "Queued"
    said = {item["type"]: item["status"] for item in workload["status"]["conditions"]}
    assert "admission" not in workload["status"]
    assert said == {
        "QuotaReserved": "False",
        "Admitted": "False",
        "Evicted": "True",
        "Requeued": "True",
        "PodsReady": "False",
    }
    simulation.says(QuotaReserved=True, Evicted=False, Admitted=True)
    simulation.settle(code=None)
    status = simulation.status
    assert (status["phase"], status["attempt"], status.get("countedRestarts", 0)) == ("Running", 2, 0)
    assert status["attempts"][-1]["reason"] == "Preempted"
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded"


def test_a_workload_that_is_taken_away_stops_the_run_until_it_is_admitted_anew() -> None:
    simulation = running()
    del simulation.objects["Workload", "tiny-rlrun"]
    simulation.settle(code=None)
    assert not simulation.pods() and simulation.status["phase"] == "Queued"
    simulation.says(QuotaReserved=True, Admitted=True)
    simulation.settle(code=None)
    assert (simulation.status["phase"], simulation.status["attempt"]) == ("Running", 2)


def test_a_failure_keeps_the_quota_and_the_place() -> None:
    simulation = running()
    workload = simulation.kueue()
    simulation.end(next(pod for pod in simulation.pods("trainer")), 70)
    simulation.settle(code=None)
    assert simulation.status["attempt"] == 2 and simulation.kueue() is workload


def test_suspending_frees_the_quota_and_resuming_asks_for_it_again() -> None:
    simulation = running()
    simulation.run["spec"]["suspend"] = True
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Suspended" and simulation.kueue() is None
    simulation.run["spec"]["suspend"] = False
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Queued" and simulation.kueue() is not None and not simulation.pods()
    simulation.says(QuotaReserved=True, Admitted=True)
    simulation.settle(code=None)
    assert (simulation.status["phase"], simulation.status["attempt"]) == ("Running", 2)


def test_a_run_that_can_not_start_takes_no_quota() -> None:
    simulation = queued()
    simulation.run["spec"]["suspend"] = True
    simulation.settle(code=None)
    assert simulation.kueue() is None and simulation.status["phase"] == "Suspended"


@pytest.mark.parametrize(("code", "reason"), [(0, "Succeeded"), (78, "Failed")])
def test_the_workload_of_an_ended_run_is_marked_finished(code: int, reason: str) -> None:
    simulation = running()
    simulation.settle(code=code)
    workload = simulation.kueue()
    assert workload is not None and simulation.status["phase"] == reason
    (done,) = [item for item in workload["status"]["conditions"] if item["type"] == "Finished"]
    assert (done["status"], done["reason"]) == ("True", reason)


def test_more_rollouts_than_there_is_quota_for_wait() -> None:
    simulation = running(rollout={"replicas": 2})
    simulation.run["spec"]["rollout"] = {"replicas": 4}
    simulation.settle(code=None)
    assert simulation.objects["StatefulSet", "tiny-rollout"]["spec"]["replicas"] == 2
    (condition,) = [item for item in simulation.status["conditions"] if item["type"] == "QuotaReserved"]
    assert condition["message"] == "rollout has quota for 2 of 4; suspend and resume the run to ask for more"
    simulation.run["spec"]["rollout"] = {"replicas": 1}
    simulation.settle(code=None)
    assert simulation.objects["StatefulSet", "tiny-rollout"]["spec"]["replicas"] == 1


def test_time_in_the_queue_is_not_active_time() -> None:
    simulation = queued(limits={"activeDeadlineSeconds": 60})
    simulation.now += timedelta(hours=5)
    simulation.says(QuotaReserved=True, Admitted=True)
    simulation.operator()
    simulation.operator()
    simulation.says(Evicted=True)
    for _ in range(9):
        simulation.operator()
        simulation.controllers()
        simulation.reap()
    simulation.now += timedelta(hours=5)
    simulation.says(QuotaReserved=True, Evicted=False, Admitted=True)
    for _ in range(3):
        simulation.operator()
    assert simulation.status["phase"] == "Restarting"


def test_without_kueue_a_queue_is_told_and_waited_for() -> None:
    simulation = queued()
    del simulation.objects["Workload", "tiny-rlrun"]
    simulation.around = {}
    simulation.operator()
    assert simulation.status["phase"] == "Queued"
    assert "this operator does not speak with Kueue" in simulation.status["message"]


_STEP = st.sampled_from(["operator", "crash", "controllers", "start", "reap", "end", "admit", "evict", "suspend", "go"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(_STEP, max_size=40))
def test_whatever_kueue_does_a_run_has_pods_only_while_admitted_and_comes_to_an_end(steps: list[str]) -> None:
    """The simulation refuses Jobs and servers of a run that isn't admitted, and two attempts at a time."""
    simulation = queued()
    for step in steps:
        workload = simulation.kueue()
        said = {c["type"]: c["status"] for c in (workload or {}).get("status", {}).get("conditions", [])}
        if step in ("operator", "crash"):
            simulation.operator(crash_after=1 if step == "crash" else None)
        elif step in ("suspend", "go"):
            simulation.run["spec"]["suspend"] = step == "suspend"
        elif step == "admit" and workload is not None and said.get("Admitted") != "True":
            simulation.says(QuotaReserved=True, Evicted=False, Admitted=True)
        elif step == "evict" and said.get("Admitted") == "True":
            simulation.says(Evicted=True)
        elif step == "end" and simulation.pods():
            simulation.end(simulation.pods()[0], 75)
        elif step == "start":
            for pod in simulation.pods():
                simulation.start(pod)
        elif step in ("controllers", "reap"):
            getattr(simulation, step)()
    simulation.run["spec"]["suspend"] = False
    for _ in range(4):
        simulation.settle(code=0)
        if simulation.kueue() is not None and simulation.status["phase"] == "Queued":
            simulation.says(QuotaReserved=True, Evicted=False, Admitted=True)
    assert simulation.status["phase"] == "Succeeded"


def test_roles_are_placed_alike_with_and_without_an_admission_of_theirs() -> None:
    assert "nodeSelector" not in pod_of(objects("SFTRun"), "trainer")
