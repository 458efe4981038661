"""The pure decision: invariants under crashes and bad luck, and single answers to single situations."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qednano_operator.cache import compact
from qednano_operator.decision import Defaults, Question, World
from qednano_operator.health import MAIN_ROLE
from qednano_operator.progress import bounded
from qednano_operator.reconcile import reconcile
from qednano_operator.status import stored

from qednano.api import KINDS
from qednano.plan import roles
from qednano.progress import ProgressReport
from tests.operator.harness import manifest
from tests.operator.simulation import LABEL, Simulation

NO_WAIT = {"maxRestarts": 3, "backoffSeconds": 0, "maxBackoffSeconds": 0}

_STEP = st.one_of(
    st.tuples(st.just("operator"), st.integers(0, 6)),
    st.tuples(st.just("operator"), st.just(99)),
    st.tuples(st.just("controllers"), st.just(0)),
    st.tuples(st.just("start"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 69, 70, 71, 74, 75, 78, 137]))),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("reap"), st.just(0)),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("time"), st.integers(1, 60)),
)


def _play(simulation: Simulation, step: tuple[str, Any]) -> None:
    what, how = step
    pods = simulation.pods()
    if what == "operator":
        simulation.operator(crash_after=how)
    elif what == "controllers":
        simulation.controllers()
    elif what == "reap":
        simulation.reap()
    elif what == "suspend":
        simulation.run["spec"]["suspend"] = how
    elif what == "time":
        simulation.now += timedelta(seconds=how)
    elif pods and what == "end":
        simulation.end(pods[how[0] % len(pods)], how[1])
    elif pods and what == "start":
        simulation.start(pods[how % len(pods)])
    elif pods and what == "delete":
        pods[how % len(pods)]["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(["SFTRun", "RLRun"]), job_sets=st.booleans(), steps=st.lists(_STEP, max_size=60))
def test_whatever_happens_a_run_ends_with_one_attempt_at_a_time(
    kind: str, job_sets: bool, steps: list[tuple[str, Any]]
) -> None:
    """Attempts never overlap or fall, ends stay, no object is made twice, and good luck leads to an end."""
    trainer = {"maxSteps": 10} if kind == "SFTRun" else {}
    simulation = Simulation.of(kind, trainer={**trainer, "nodes": 2}, restart=NO_WAIT)
    simulation.defaults = Defaults(job_sets=job_sets)
    for step in steps:
        _play(simulation, step)
    simulation.run["spec"]["suspend"] = False
    simulation.settle()
    assert simulation.status["phase"] in ("Succeeded", "Failed")
    left = {kind for kind, _ in simulation.objects}
    assert "StatefulSet" not in left and "Service" not in left
    assert not [pod for pod in simulation.pods() if pod["status"]["phase"] in ("Pending", "Running")]
    assert not simulation.operator(), "a settled run costs nothing"
    assert len(str(simulation.status)) < 16384


def _running(kind: str, **spec: Any) -> Simulation:
    simulation = Simulation.of(kind, **spec)
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running"
    return simulation


def _pod(simulation: Simulation, role: str, index: int = 0) -> dict[str, Any]:
    """The role's pod in its newest attempt."""
    found = [pod for pod in simulation.pods(role) if pod["metadata"]["labels"].get(LABEL + "index", "0") == str(index)]
    return max(found, key=lambda pod: int(pod["metadata"]["labels"][LABEL + "attempt"]))


def test_the_intent_is_stored_before_anything_is_touched() -> None:
    simulation = _running("SFTRun", restart=NO_WAIT)
    simulation.end(_pod(simulation, "trainer"), 70)
    decision = simulation.decide()
    assert decision.status.attempt == 2
    assert not decision.apply and not decision.delete


def test_in_a_gang_the_first_failure_is_the_cause() -> None:
    simulation = _running("SFTRun", trainer={"maxSteps": 1, "nodes": 2})
    simulation.end(_pod(simulation, "trainer", 1), 70)
    simulation.now += timedelta(seconds=5)
    simulation.end(_pod(simulation, "trainer", 0), 71)
    (attempt,) = simulation.decide().status.attempts
    assert attempt.reason == "InternalError"


def test_a_configuration_error_of_any_rank_ends_the_run() -> None:
    simulation = _running("SFTRun", trainer={"maxSteps": 1, "nodes": 2})
    simulation.end(_pod(simulation, "trainer", 1), 71)
    simulation.now += timedelta(seconds=5)
    simulation.end(_pod(simulation, "trainer", 0), 78)
    assert simulation.decide().status.phase == "Failed"


@pytest.mark.parametrize(
    ("code", "phase", "counted"),
    [(1, "Restarting", 1), (69, "Restarting", 1), (75, "Restarting", 0), (64, "Failed", 0), (137, "Restarting", 1)],
)
def test_the_exit_code_decides(code: int, phase: str, counted: int) -> None:
    simulation = _running("SFTRun")
    simulation.end(_pod(simulation, "trainer"), code)
    status = simulation.decide().status
    assert (status.phase, status.counted_restarts) == (phase, counted)


def test_torchruns_exit_code_yields_to_the_jobs_last_words() -> None:
    simulation = _running("SFTRun")
    pod = _pod(simulation, "trainer")
    simulation.end(pod, 1)
    words = '{"outcome": "Failed", "reason": "ConfigError", "message": "spec.model.uri is no folder"}'
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = words
    status = simulation.decide().status
    assert (status.phase, status.message) == ("Failed", "spec.model.uri is no folder")


def test_memory_is_named_as_the_cause_whatever_was_logged_last() -> None:
    simulation = _running("SFTRun")
    pod = _pod(simulation, "trainer")
    simulation.end(pod, 137)
    terminated = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    terminated |= {"reason": "OOMKilled", "message": "step 7 of 10"}
    (attempt,) = simulation.decide().status.attempts
    assert attempt.reason == "OutOfMemory" and "raise resources.memory of trainer" in attempt.message


def test_back_off_doubles_and_holds_new_pods_back() -> None:
    simulation = _running("SFTRun", restart={"maxRestarts": 5, "backoffSeconds": 10, "maxBackoffSeconds": 300})
    waits = []
    for _ in range(3):
        simulation.end(_pod(simulation, "trainer"), 70)
        simulation.operator()
        waits.append(simulation.decide().wake_after)
        assert not simulation.decide().apply
        simulation.settle(code=None)
    assert waits == [11, 21, 41]


def test_a_pod_that_a_dead_node_holds_is_deleted_by_force_and_the_run_goes_on() -> None:
    simulation = _running("SFTRun")
    held = _pod(simulation, "trainer")
    simulation.terminate(held)
    simulation.operator()
    assert not any(target.force for target in simulation.decide().delete)
    wake = simulation.decide().wake_after
    assert wake is not None and wake <= 180 + 300  # the trainer's grace, and what a node is given beyond
    simulation.now += timedelta(seconds=481)
    assert [target.name for target in simulation.decide().delete if target.force] == [held["metadata"]["name"]]
    simulation.settle(code=None)
    assert _pod(simulation, "trainer")["metadata"]["labels"]["qednano.dev/attempt"] == "2"


def test_a_back_off_stored_by_a_clock_ahead_is_cut_to_what_the_policy_knows() -> None:
    simulation = _running("SFTRun", restart={"maxRestarts": 5, "backoffSeconds": 10, "maxBackoffSeconds": 60})
    simulation.end(_pod(simulation, "trainer"), 70)
    simulation.operator()
    simulation.now -= timedelta(hours=1)  # the leader's successor has a slower clock
    simulation.operator()
    wait = simulation.decide().wake_after
    assert wait is not None and wait <= 61


def test_a_server_with_a_bad_configuration_ends_the_run() -> None:
    simulation = _running("RLRun")
    simulation.end(_pod(simulation, "rollout"), 78)
    status = simulation.decide().status
    assert status.phase == "Failed" and status.attempts[-1].role == "rollout"


def test_a_server_that_fails_now_and_then_does_not_disturb_the_run() -> None:
    simulation = _running("RLRun")
    simulation.end(_pod(simulation, "rollout"), 70)
    decision = simulation.decide()
    assert decision.status.phase == "Running" and not decision.apply and not decision.delete


def test_a_pod_that_says_it_is_stopped_was_not_asked_is_counted() -> None:
    """torchrun stops healthy ranks after one failed; believing their last words would restart for ever."""
    simulation = _running("SFTRun")
    pod = _pod(simulation, "trainer")
    simulation.end(pod, 1)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = '{"reason": "Stopped", "message": "x"}'
    assert simulation.decide().status.counted_restarts == 1


def test_fields_that_can_not_change_are_ignored_after_the_start_and_named() -> None:
    simulation = _running("SFTRun")
    simulation.run["spec"]["trainer"] = {"maxSteps": 10, "precision": "fp32", "learningRate": "0.5"}
    simulation.run["spec"]["seed"] = 9
    simulation.run["metadata"]["generation"] = 2
    simulation.settle(code=None)
    assert simulation.events[-1] == "FieldsIgnored"
    accepted = next(item for item in simulation.status["conditions"] if item["type"] == "Accepted")
    assert accepted["message"].startswith("spec.seed, spec.trainer.learningRate were changed after the start")
    assert '"seed": 0' in simulation.objects["ConfigMap", "tiny-config"]["data"]["config.json"]


def test_a_change_that_breaks_the_spec_does_not_break_the_run() -> None:
    simulation = _running("SFTRun")
    simulation.run["spec"]["trainer"] = {"maxSteps": -1}
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded"


def test_an_invalid_spec_stays_pending_with_every_mistake_and_can_be_mended() -> None:
    simulation = Simulation.of("SFTRun", trainer={"maxSteps": 0, "zeroStage": 9})
    simulation.operator()
    assert simulation.status["phase"] == "Pending"
    assert "spec.trainer.maxSteps" in simulation.status["message"]
    assert "spec.trainer.zeroStage" in simulation.status["message"]
    simulation.run["spec"]["trainer"] = {"maxSteps": 1}
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded"


@pytest.mark.parametrize(
    ("spec", "source", "message"),
    [
        (
            {"model": {"sftRun": {"name": "base", "checkpoint": "Initial"}}},
            {"spec": {"model": {"uri": "/m"}}, "status": {"phase": "Running"}},
            "spec.model.sftRun.checkpoint is Initial, but SFTRun base did not start from a new model",
        ),
        (
            {"dataset": {"proofDataset": {"name": "base", "split": "exam"}}},
            {"spec": {"splits": [{"name": "sft"}, {"name": "rl"}]}, "status": {"phase": "Running"}},
            "spec.dataset.proofDataset.split is exam, but ProofDataset base has only sft, rl",
        ),
    ],
)
def test_what_can_never_be_met_fails_at_once(spec: dict[str, Any], source: dict[str, Any], message: str) -> None:
    simulation = Simulation.of("SFTRun", **spec)
    for kind in ("SFTRun", "ProofDataset"):
        simulation.others[kind, "base"] = {"kind": kind, "metadata": {"name": "base"}, **source}
    simulation.operator()
    assert simulation.status["phase"] == "Failed" and message in simulation.status["message"]


def test_waiting_shows_how_far_the_other_run_is() -> None:
    simulation = Simulation.of("EvalRun", baselines=[{"name": "old", "model": {"rlRun": {"name": "base"}}}])
    progress = {"step": 3, "total": 10, "unit": "step"}
    simulation.others["RLRun", "base"] = {
        "kind": "RLRun",
        "metadata": {"name": "base"},
        "spec": {},
        "status": {"phase": "Running", "progress": progress},
    }
    simulation.operator()
    expected = "spec.baselines[0].model.rlRun waits for RLRun base, which is Running"
    assert simulation.status["message"] == f"{expected} (30 % done)"
    progress["step"] = 71
    progress["total"] = 100
    simulation.operator()
    assert simulation.status["message"] == f"{expected} (70 % done)"
    assert simulation.events.count("Waiting") == 1, "progress of another run is no news about this one"


def test_objects_of_an_earlier_run_of_the_name_are_waited_for() -> None:
    first = _running("SFTRun")
    second = Simulation.of("SFTRun")
    second.run["metadata"]["uid"] = "9876543210"
    second.objects = first.objects
    second.operator()
    assert second.status["phase"] == "Waiting" and "of an earlier SFTRun tiny" in second.status["message"]
    second.objects = {}
    second.settle()
    assert second.status["phase"] == "Succeeded"


def test_gpu_time_is_what_was_held_while_it_was_held() -> None:
    simulation = _running("SFTRun", trainer={"maxSteps": 1, "resources": {"gpus": 8}})
    assert simulation.status["gpus"] == 8
    start = simulation.now
    simulation.now += timedelta(seconds=100)
    simulation.end(_pod(simulation, "trainer"), 0)
    simulation.operator()
    assert simulation.status["usage"]["gpuSeconds"] >= 800
    assert simulation.status["usage"]["gpuSeconds"] <= 8 * ((simulation.now - start).total_seconds() + 60)
    assert "gpus" not in {key for key, value in simulation.status.items() if value}


def test_the_headline_of_an_rl_run_is_the_actors_reward() -> None:
    simulation = _running("RLRun")
    reports = {
        "trainer": ProgressReport(step=4, total=9, metrics={"loss": 1.0}),
        "actor": ProgressReport(step=70, metrics={"reward": 0.123456}),
    }
    children = tuple(compact(obj["kind"], obj) for obj in simulation.objects.values())
    status = reconcile(simulation.run, World(children, reports=reports), simulation.now, Defaults()).status
    assert status.progress is not None
    assert (status.progress.step, status.progress.headline) == (4, "0.1235")
    assert stored(status)["progress"]["metrics"] == [
        {"name": "loss", "value": "1"},
        {"name": "reward", "value": "0.123456"},
    ]


def test_a_status_stays_small_however_much_pods_talk() -> None:
    simulation = _running("RLRun", restart={"maxRestarts": 50, "backoffSeconds": 0, "maxBackoffSeconds": 0})
    for _ in range(12):
        pod = _pod(simulation, "actor")
        simulation.end(pod, 70)
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = "\u00fc" * 4096
        simulation.settle(code=None)
    metrics = {f"metric_{number}_{'x' * 50}": 1 / 3 for number in range(64)}
    reports = {role: bounded(ProgressReport(metrics=metrics, message="y" * 9999), 1.0) for role in ("trainer", "actor")}
    children = tuple(compact(obj["kind"], obj) for obj in simulation.objects.values())
    status = reconcile(simulation.run, World(children, reports=reports), simulation.now, Defaults()).status
    assert len(status.attempts) == 10
    assert len(json.dumps(stored(status), ensure_ascii=False).encode()) < 16384


def test_a_sidecar_that_was_injected_does_not_speak_for_the_job() -> None:
    simulation = _running("SFTRun")
    pod = _pod(simulation, "trainer")
    simulation.end(pod, 78)
    (mine,) = pod["status"]["containerStatuses"]
    sidecar = {"name": "proxy", "state": {"terminated": {"exitCode": 0}}}
    pod["status"]["containerStatuses"] = [sidecar, {**mine, "name": "trainer"}]
    assert simulation.decide().status.attempts[-1].exit_code == 78


def _condition(simulation: Simulation, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in simulation.status["conditions"] if item["type"] == kind)
    return found


def test_the_main_role_is_the_essential_one_of_the_plan() -> None:
    for kind, role in MAIN_ROLE.items():
        spec = KINDS[kind].spec_type().model_validate(manifest(kind, "a", "ns")["spec"])
        assert [item.name for item in roles(spec) if item.essential] == [role]


def test_a_run_that_is_active_for_too_long_fails_and_leaves_no_pod() -> None:
    simulation = _running("RLRun", limits={"activeDeadlineSeconds": 7200, "stallSeconds": 0})
    simulation.now += timedelta(seconds=7201)
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Failed"
    assert _condition(simulation, "Failed")["reason"] == "DeadlineExceeded"
    assert "spec.limits.activeDeadlineSeconds" in simulation.status["message"]
    assert not [pod for pod in simulation.pods() if pod["status"]["phase"] == "Running"]


def test_the_deadline_counts_from_the_last_resume() -> None:
    simulation = _running("SFTRun", trainer={"maxSteps": 10}, limits={"activeDeadlineSeconds": 7200, "stallSeconds": 0})
    simulation.run["spec"]["suspend"] = True
    simulation.settle(code=None)
    simulation.now += timedelta(days=1)
    simulation.run["spec"]["suspend"] = False
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running"


def test_a_run_that_stands_still_says_so_and_is_restarted_when_asked() -> None:
    reported = _running("SFTRun", trainer={"maxSteps": 10}, limits={"stallSeconds": 3600})
    reported.now += timedelta(seconds=3700)
    reported.operator()
    assert reported.status["phase"] == "Running"
    assert _condition(reported, "Progressing")["reason"] == "Stalled"
    assert "spec.limits.stallSeconds" in _condition(reported, "Progressing")["message"]
    restarted = _running("SFTRun", trainer={"maxSteps": 10}, limits={"stallSeconds": 3600, "onStall": "Restart"})
    restarted.now += timedelta(seconds=3700)
    restarted.operator()
    assert restarted.status["attempt"] == 2
    assert restarted.status["attempts"][-1]["reason"] == "Stalled"
    restarted.settle()
    assert restarted.status["phase"] == "Succeeded"


def test_what_waits_by_its_own_decision_is_no_stall() -> None:
    simulation = _running("RLRun", limits={"stallSeconds": 3600})
    report = ProgressReport(step=3, paused="9 of the last 20 grades failed", updated=simulation.now.timestamp())
    simulation.reports = {"trainer": ProgressReport(step=3, updated=simulation.now.timestamp()), "actor": report}
    simulation.operator()
    simulation.now += timedelta(seconds=7200)
    simulation.operator()
    condition = _condition(simulation, "Progressing")
    assert (condition["status"], condition["reason"]) == ("False", "Paused")
    assert condition["message"] == report.paused


def test_an_ended_run_is_deleted_after_its_time_and_not_before() -> None:
    simulation = _running("EvalRun", ttlSecondsAfterFinished=86400)
    simulation.finish()
    decision = simulation.decide()
    assert not decision.delete and decision.wake_after is not None and 0 < decision.wake_after <= 86400
    simulation.now += timedelta(seconds=86401)
    assert [(target.kind, target.name) for target in simulation.decide().delete] == [("EvalRun", "tiny")]


def test_tokens_and_money_are_totals_that_never_fall() -> None:
    simulation = _running("EvalRun")
    for told in ({"tokens/in": 10.0, "tokens/out": 20.0, "cost": 1.5}, {"tokens/in": 4.0, "cost": 0.5}):
        simulation.reports = {"evaluate": ProgressReport(metrics=told, updated=simulation.now.timestamp())}
        simulation.operator()
    usage = simulation.status["usage"]
    assert (usage["promptTokens"], usage["completionTokens"], usage["cost"]) == (10, 20, "1.50")


_TEMPLATE = {
    "model": {"uri": "/qed/model"},
    "benchmark": {"uri": "/qed/test.parquet"},
    "grader": {"checker": {"name": "tiny-divisibility"}},
    "suspend": True,
}


def _evaluated(**trainer: int) -> Simulation:
    """A running SFTRun, of ten steps by default, that wants every fourth step and the last one evaluated."""
    simulation = Simulation.of(
        "SFTRun",
        trainer=trainer or {"maxSteps": 10},
        evaluations=[{"name": "quick", "evalRun": "template", "everySteps": 4}],
        restart=NO_WAIT,
    )
    template = manifest("EvalRun", "template", "ns")
    simulation.others["EvalRun", "template"] = {**template, "spec": _TEMPLATE}
    simulation.settle(code=None)
    return simulation


def test_each_chosen_checkpoint_gets_one_evaluation_that_is_never_made_again() -> None:
    simulation = _evaluated()
    report = ProgressReport(step=4, total=10, exports=[2, 4], updated=simulation.now.timestamp())
    simulation.reports = {"trainer": report}
    (made,) = [obj for obj in simulation.decide().apply if obj["kind"] == "EvalRun"]
    assert made["metadata"]["name"] == "tiny-quick-4"
    assert made["spec"]["model"] == {"sftRun": {"name": "tiny", "step": 4}}
    assert made["metadata"]["ownerReferences"][0]["name"] == "tiny"
    assert "suspend" not in made["spec"]
    simulation.operator()
    assert simulation.status["evaluations"] == [{"name": "tiny-quick-4", "phase": "Pending", "step": 4}]
    assert not [obj for obj in simulation.decide().apply if obj["kind"] == "EvalRun"]


def test_the_last_step_is_evaluated_though_the_trainer_ended_before_it_was_asked() -> None:
    simulation = _evaluated()
    simulation.reports = {"trainer": ProgressReport(step=9, total=10, updated=simulation.now.timestamp())}
    simulation.operator()
    simulation.finish()
    assert [item["name"] for item in simulation.status["evaluations"]] == ["tiny-quick-10"]
    assert simulation.status["progress"]["exports"] == [10]


def test_the_last_step_of_epochs_is_the_one_that_the_trainer_has_counted() -> None:
    simulation = _evaluated(epochs=2)
    report = ProgressReport(step=34, total=0, exports=[34], updated=simulation.now.timestamp())
    simulation.reports = {"trainer": report}
    assert not [obj for obj in simulation.decide().apply if obj["kind"] == "EvalRun"], "it has not counted yet"
    simulation.reports = {"trainer": report.model_copy(update={"total": 34})}
    simulation.operator()
    assert [item["name"] for item in simulation.status["evaluations"]] == ["tiny-quick-34"]


def test_an_evaluation_of_a_step_starts_while_the_training_goes_on() -> None:
    simulation = Simulation.of("EvalRun", model={"sftRun": {"name": "train", "step": 4}})
    train = manifest("SFTRun", "train", "ns")
    train["status"] = {"phase": "Running", "runDir": "/qed/ns/sftrun/train-1", "progress": {"exports": [2]}}
    simulation.others["SFTRun", "train"] = train
    simulation.operator()
    assert simulation.status["phase"] == "Waiting"
    assert "waits for step 4 of SFTRun train" in simulation.status["message"]
    train["status"]["progress"] = {"exports": [2, 4]}
    simulation.operator()
    assert simulation.status["inputs"][-1]["uri"].startswith("/qed/ns/sftrun/train-1/exports/step-")
    lost = Simulation.of("EvalRun", model={"sftRun": {"name": "train", "step": 3}})
    lost.others["SFTRun", "train"] = {**train, "status": {**train["status"], "phase": "Succeeded"}}
    lost.operator()
    assert lost.status["phase"] == "Failed" and "keeps no weights of that step" in lost.status["message"]


def _trained(*evaluations: dict[str, object]) -> dict[str, object]:
    """An SFTRun that has succeeded and whose evaluation `quick` chooses the best checkpoint."""
    train = manifest("SFTRun", "train", "ns")
    train["spec"]["evaluations"] = [{"name": "quick", "evalRun": "template", "everySteps": 4, "best": True}]
    train["status"] = {
        "phase": "Succeeded",
        "artifact": {"uri": "/qed/ns/sftrun/train-1/artifact", "digest": "sha256:final"},
        "evaluations": list(evaluations),
    }
    return train


def _listed(step: int, phase: str, name: str = "quick") -> dict[str, object]:
    return {"name": f"train-{name}-{step}", "step": step, "phase": phase}


@pytest.mark.parametrize(
    ("evaluations", "phase", "words"),
    [
        ((), "Waiting", "waits for the first EvalRun"),
        ((_listed(4, "Succeeded"), _listed(8, "Running")), "Waiting", "train-quick-8, which is Running"),
        ((_listed(4, "Failed"), _listed(4, "Succeeded", "other")), "Failed", "so none was chosen"),
    ],
)
def test_the_best_checkpoint_is_waited_for_until_all_that_choose_it_have_ended(evaluations, phase, words) -> None:
    simulation = Simulation.of("EvalRun", model={"sftRun": {"name": "train", "checkpoint": "Best"}})
    simulation.others["SFTRun", "train"] = _trained(*evaluations)
    simulation.operator()
    assert simulation.status["phase"] == phase and words in simulation.status["message"]


def test_the_best_checkpoint_is_taken_once_it_is_known_and_is_not_the_artifact() -> None:
    simulation = Simulation.of("EvalRun", model={"sftRun": {"name": "train", "checkpoint": "Best"}})
    simulation.others["SFTRun", "train"] = _trained(_listed(4, "Succeeded"), _listed(8, "Failed"))
    simulation.operator()
    (model,) = [item for item in simulation.status["inputs"] if item["field"] == "model"]
    assert model["uri"] == "/qed/ns/sftrun/train-1/best" and not model.get("digest")


def test_a_cancelled_run_saves_and_fails_for_good() -> None:
    simulation = _running("SFTRun", trainer={"maxSteps": 10})
    simulation.run["spec"]["cancel"] = True
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Failed"
    assert _condition(simulation, "Failed")["reason"] == "Cancelled"
    assert not [pod for pod in simulation.pods() if pod["status"]["phase"] == "Running"]
    simulation.run["spec"]["cancel"] = False
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Failed"


def test_a_job_that_says_so_before_its_pod_does_not_cost_the_pods_last_words() -> None:
    """Jobs and pods are told by different watches, and after a restart listed at different times."""
    simulation = _running("SFTRun")
    (job,) = (obj for (kind, _), obj in simulation.objects.items() if kind == "Job")
    job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    simulation.operator()
    assert simulation.status["phase"] == "Running"
    pod = _pod(simulation, "trainer")
    simulation.end(pod, 0)
    made = '{"outcome": "Succeeded", "artifact": {"uri": "/qed/x", "digest": "sha256:1"}}'
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = made
    simulation.settle()
    assert simulation.status["artifact"]["digest"] == "sha256:1"


def test_a_pod_that_is_done_and_deleted_still_counts_as_one_that_ran() -> None:
    simulation = Simulation.of("SFTRun", trainer={"maxSteps": 10, "nodes": 2}, restart=NO_WAIT)
    for _ in range(2):
        simulation.operator()
    simulation.controllers()
    simulation.terminate(first := simulation.pods("trainer")[0])
    simulation.end(first, 0)
    simulation.settle()
    assert (simulation.status["phase"], simulation.status["attempt"]) == ("Succeeded", 1)


def _told_before_its_pod(code: int) -> Simulation:
    """A run whose pod has ended, as the operator knows from its Job, but has not been told of."""
    simulation = Simulation.of("SFTRun", restart=NO_WAIT)
    for _ in range(2):
        simulation.operator()
    simulation.controllers()
    (pod,) = simulation.pods("trainer")
    simulation.end_unseen(pod, code)
    return simulation


@pytest.mark.parametrize("told", [True, False], ids=["the watch tells", "the API server is asked"])
def test_a_failure_that_is_known_before_its_pod_counts(told: bool) -> None:
    simulation = _told_before_its_pod(70)
    (job,) = (obj for (kind, _), obj in simulation.objects.items() if kind == "Job")
    decision = simulation.decide()
    (asked,) = decision.ask
    assert asked == Question(frozenset({job["metadata"]["uid"]}), "trainer", 1)
    assert not decision.delete and decision.status.attempt == 1, "nothing is concluded meanwhile"
    if told:
        simulation.hidden.clear()
    for _ in range(2):
        simulation.operator()
    (attempt,) = simulation.status["attempts"]
    assert attempt["exitCode"] == 70 and attempt["counted"] and simulation.status["countedRestarts"] == 1


def test_a_pod_that_the_api_server_does_not_have_is_lost_which_does_not_count() -> None:
    simulation = _told_before_its_pod(70)
    (pod,) = simulation.pods("trainer")
    del simulation.objects["Pod", pod["metadata"]["name"]]
    for _ in range(2):
        simulation.operator()
    (attempt,) = simulation.status["attempts"]
    assert attempt["reason"] == "PodLost" and not attempt["counted"]
    assert simulation.status.get("countedRestarts", 0) == 0 and simulation.status["attempt"] == 2


def test_an_end_that_is_known_before_its_pod_waits_for_the_pods_last_words() -> None:
    simulation = _told_before_its_pod(0)
    (pod,) = simulation.pods("trainer")
    made = '{"outcome": "Succeeded", "artifact": {"uri": "/qed/x", "digest": "sha256:1"}}'
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = made
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded" and simulation.status["artifact"]["digest"] == "sha256:1"


def _with_a_pod_untold() -> tuple[Simulation, Any]:
    """A run whose pod runs, which the watch of pods has not told yet."""
    simulation = Simulation.of("SFTRun", restart=NO_WAIT)
    simulation.lags = True
    for _ in range(2):
        simulation.operator()
    simulation.controllers()
    (pod,) = simulation.pods("trainer")
    simulation.start(pod)
    return simulation, pod


def test_a_run_is_not_suspended_while_a_pod_lives_that_no_watch_has_told_of() -> None:
    simulation, pod = _with_a_pod_untold()
    simulation.run["spec"]["suspend"] = True
    for _ in range(6):
        simulation.operator()
    assert simulation.status["phase"] == "Suspending" and pod["metadata"]["deletionTimestamp"]
    simulation.reap()
    simulation.operator()
    assert simulation.status["phase"] == "Suspended"


def test_no_attempt_begins_while_a_pod_lives_that_no_watch_has_told_of() -> None:
    simulation, pod = _with_a_pod_untold()
    (name,) = (name for kind, name in simulation.objects if kind == "Job")
    simulation.objects["Job", name]["status"]["conditions"] = [{"type": "Failed", "status": "True"}]
    simulation.asked.add(simulation.objects["Job", name]["metadata"]["uid"])  # a moment too soon for the pod
    for _ in range(6):
        simulation.operator()
    assert simulation.status["attempt"] == 2 and pod["metadata"]["deletionTimestamp"]
    assert simulation.created == [name]
    simulation.reap()
    simulation.operator()
    assert len(simulation.created) == 2
