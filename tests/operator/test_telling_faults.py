"""What a run says of its faults: inputs that went, images that are missing, memory; and how often."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from qednano_operator.admission import judge
from qednano_operator.events import Budget

from qednano.progress import ProgressReport
from tests.operator.harness import manifest
from tests.operator.simulation import Simulation


def running(kind: str = "SFTRun", **spec: Any) -> Simulation:
    """A run that runs."""
    simulation = Simulation.of(kind, **spec)
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running"
    return simulation


def condition(simulation: Simulation, kind: str) -> dict[str, Any]:
    """A condition of the stored status."""
    found: dict[str, Any] = next(item for item in simulation.status["conditions"] if item["type"] == kind)
    return found


def fed() -> Simulation:
    """A running SFTRun that was started with a split of a ProofDataset."""
    simulation = Simulation.of("SFTRun", dataset={"proofDataset": {"name": "data", "split": "sft"}})
    simulation.others["ProofDataset", "data"] = {
        **manifest("ProofDataset", "data", "ns"),
        "status": {"phase": "Succeeded", "artifact": {"uri": "/qed/data", "digest": "sha256:1"}},
    }
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running"
    return simulation


def test_a_run_whose_input_was_deleted_says_so_and_goes_on() -> None:
    simulation = fed()
    simulation.others.clear()
    simulation.operator()
    found = condition(simulation, "DependenciesReady")
    assert (found["status"], found["reason"]) == ("True", "InputsDeleted")
    assert found["message"].startswith("ProofDataset data (spec.dataset.proofDataset) was deleted;")
    assert simulation.events[-1] == "InputsDeleted" and simulation.status["phase"] == "Running"
    assert not simulation.operator(), "it says so once"
    simulation.finish()
    assert condition(simulation, "DependenciesReady")["reason"] == "InputsDeleted"


def test_an_input_that_was_made_anew_is_not_taken_for_the_old_one() -> None:
    simulation = fed()
    simulation.others["ProofDataset", "data"]["status"]["artifact"]["digest"] = "sha256:2"
    simulation.operator()
    assert "was made anew, as another" in condition(simulation, "DependenciesReady")["message"]
    simulation.others["ProofDataset", "data"]["status"]["artifact"]["digest"] = "sha256:1"
    simulation.operator()
    assert condition(simulation, "DependenciesReady")["reason"] == "Resolved"


def test_a_server_that_keeps_running_out_of_memory_gets_the_advice_with_its_end() -> None:
    simulation = running("RLRun")
    (server,) = simulation.pods("rollout")
    killed = {
        "exitCode": 137,
        "reason": "OOMKilled",
        "message": "loading weights",
        "finishedAt": "2026-01-01T00:00:00Z",
    }
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    server["status"]["containerStatuses"] = [{"state": waiting, "lastState": {"terminated": killed}, "restartCount": 9}]
    server["status"]["conditions"] = []
    simulation.operator()
    assert condition(simulation, "Failed")["reason"] == "ServerKeepsFailing"
    assert "raise resources.memory of rollout" in simulation.status["message"]


@pytest.mark.parametrize("field", ["startTime", "retryAfter", "phaseSince"])
def test_a_time_at_the_end_of_the_calendar_raises_nothing(field: str) -> None:
    simulation = running(limits={"activeDeadlineSeconds": 7200}, ttlSecondsAfterFinished=3600)
    simulation.run["status"][field] = "9999-12-31T23:59:59Z"
    for item in simulation.run["status"]["conditions"]:
        item["lastTransitionTime"] = "9999-12-31T23:59:59Z"
    assert simulation.decide().status.phase == "Running"
    simulation.finish()
    simulation.run["status"]["completionTime"] = "9999-12-31T23:59:59Z"
    assert simulation.decide().status.phase == "Succeeded"


def test_a_run_that_completes_by_a_clock_ahead_does_not_wait_for_that_clock() -> None:
    simulation = running("RLRun")
    (trainer,) = simulation.pods("trainer")
    simulation.end(trainer, 0)
    simulation.operator()
    assert simulation.status["phase"] == "Completing"
    simulation.now -= timedelta(hours=1)  # the leader's successor has a slower clock, and a helper's node is dead
    for _ in range(3):
        simulation.operator()
    simulation.now += timedelta(seconds=121)
    simulation.operator()
    assert simulation.status["phase"] == "Succeeded"


def test_fifty_messages_of_one_kind_are_no_fifty_events() -> None:
    seconds = 0.0
    budget = Budget(lambda: seconds)
    passed = [budget.take(("SFTRun", "ns", "a"), "Unschedulable") for _ in range(50)]
    assert [item for item in passed if item is not None] == [0] * 5
    assert budget.take(("SFTRun", "ns", "a"), "Failed") == 0, "another reason has a budget of its own"
    assert budget.take(("SFTRun", "ns", "b"), "Unschedulable") == 0, "and so has another run"
    seconds = 301.0
    assert budget.take(("SFTRun", "ns", "a"), "Unschedulable") == 45, "what was held back is counted in the next"
    assert budget.take(("SFTRun", "ns", "a"), "Unschedulable") is None
    budget.forget(("SFTRun", "ns", "a"))
    assert budget.take(("SFTRun", "ns", "a"), "Unschedulable") == 0


def test_an_evaluation_whose_name_is_taken_does_not_hold_the_training_up() -> None:
    wanted = [{"name": "quick", "evalRun": "template", "everySteps": 4}]
    simulation = Simulation.of("SFTRun", evaluations=wanted)
    simulation.others["EvalRun", "template"] = manifest("EvalRun", "template", "ns")
    simulation.settle(code=None)
    simulation.around = {"owners": {("EvalRun", "tiny-quick-4"): ("", "nobody's run")}}
    simulation.reports = {"trainer": ProgressReport(step=4, total=10, exports=[4], updated=simulation.now.timestamp())}
    assert not [obj for obj in simulation.decide().apply if obj["kind"] == "EvalRun"]
    simulation.operator()
    assert simulation.status["evaluations"] == [{"name": "tiny-quick-4", "phase": "NameTaken", "step": 4}]
    assert simulation.events[-1] == "EvaluationNameTaken" and simulation.status["phase"] == "Running"


def starting(image: str = "registry/trainer:1") -> Simulation:
    """An SFTRun whose pod was made with this image and has a node."""
    simulation = Simulation.of("SFTRun", images={"trainer": image})
    for _ in range(3):
        simulation.operator()
        simulation.controllers()
    return simulation


def without_image(simulation: Simulation, reason: str, said: str, role: str = "trainer") -> None:
    """The newest pod's node says that it can't have the image."""
    pod = simulation.pods(role)[-1]
    pod["spec"]["nodeName"] = "node1"
    waiting = {"waiting": {"reason": reason, "message": said}}
    owner = ("StatefulSet" if role == "rollout" else "Job", pod["metadata"]["name"].rpartition("-")[0])
    image = simulation.objects[owner]["spec"]["template"]["spec"]
    pod["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"state": waiting, "image": image["containers"][0]["image"]}],
    }


def test_a_missing_image_is_named_once_with_the_remedy() -> None:
    simulation = starting()
    for _ in range(10):
        for reason, said in (("ErrImagePull", "manifest unknown"), ("ImagePullBackOff", "Back-off pulling image")):
            without_image(simulation, reason, said)
            simulation.now += timedelta(seconds=30)
            simulation.operator()
    found = condition(simulation, "Running")
    assert (found["status"], found["reason"]) == ("False", "ImageUnavailable")
    assert "can't pull its image registry/trainer:1; push it, or name another in spec.images" in found["message"]
    assert found["message"].endswith(": manifest unknown") and simulation.status["message"] == found["message"]
    assert simulation.events.count("ImageUnavailable") == 1


def test_a_missing_image_can_be_corrected_and_stays_corrected() -> None:
    simulation = starting()
    without_image(simulation, "ErrImagePull", "manifest unknown")
    simulation.operator()
    simulation.run["spec"]["images"] = {"trainer": "registry/trainer:2"}
    simulation.run["metadata"]["generation"] = 2
    for _ in range(4):
        simulation.operator()
        simulation.reap()
        simulation.controllers()
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running" and simulation.status["attempt"] == 2
    (last,) = simulation.status["attempts"]
    assert (last["reason"], last.get("counted", False)) == ("ImageCorrected", False)
    job = simulation.objects["Job", "tiny-trainer-a2-0"]
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/trainer:2"
    assert "FieldsIgnored" not in simulation.events
    simulation.run["spec"]["images"] = {"trainer": "registry/trainer:3"}  # it has run: now it keeps its image
    simulation.run["metadata"]["generation"] = 3
    simulation.settle(code=None)
    assert simulation.events[-1] == "FieldsIgnored" and simulation.status["attempt"] == 2


def test_servers_whose_image_was_missing_are_made_anew_with_the_other_one_and_the_trainer_goes_on() -> None:
    simulation = Simulation.of("RLRun", images={"server": "registry/server:1"})
    for _ in range(3):
        simulation.operator()
        simulation.controllers()
    without_image(simulation, "ErrImagePull", "manifest unknown", "rollout")
    simulation.operator()
    simulation.run["spec"]["images"] = {"server": "registry/server:2"}
    for _ in range(4):
        simulation.operator()
        simulation.controllers()
        simulation.reap()
    simulation.settle(code=None)
    assert simulation.status["phase"] == "Running" and simulation.status["attempt"] == 1
    server = simulation.objects["StatefulSet", "tiny-rollout"]["spec"]["template"]["spec"]["containers"][0]
    assert server["image"] == "registry/server:2"


def test_a_secret_that_is_missing_is_told_by_its_name() -> None:
    simulation = starting()
    without_image(simulation, "CreateContainerConfigError", 'secret "grader" not found')
    simulation.operator()
    assert condition(simulation, "Running")["reason"] == "PodNotStarted"
    assert simulation.status["message"].endswith(
        'can\'t be configured: secret "grader" not found; it starts by itself once that is there'
    )
    assert simulation.events[-1] == "PodNotStarted"


def test_admission_lets_the_image_be_corrected_just_as_long_as_the_operator_takes_it() -> None:
    before = manifest("SFTRun", "a", "ns", images={"trainer": "x:1"})
    after = manifest("SFTRun", "a", "ns", images={"trainer": "x:2"})
    before["status"] = {"startTime": "2026-01-01T00:00:00Z", "conditions": []}
    assert "spec.images.trainer can't change" in "".join(judge(after, before, {})[0])
    before["status"]["conditions"] = [{"type": "Running", "status": "False", "reason": "ImageUnavailable"}]
    assert judge(after, before, {}) == ([], [])
