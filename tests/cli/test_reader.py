"""The pod that reads a volume: which pods it is made like, and what keeps it from running."""

from __future__ import annotations

from typing import Any

import pytest

from qednano.steer.reader import like, obstacle


def job(run: str, role: str, created: str, claim: str = "qednano") -> dict[str, Any]:
    volumes = [{"name": "storage", "persistentVolumeClaim": {"claimName": claim}}]
    return {
        "metadata": {
            "name": f"{run}-{role}", "creationTimestamp": created,
            "labels": {"qednano.dev/run": run, "qednano.dev/role": role},
        },
        "spec": {"template": {"spec": {"volumes": volumes}}},
    }  # fmt: skip


def test_the_runs_own_worker_is_the_pattern_then_a_worker_then_any_pod_of_the_claim() -> None:
    own, later, trainer = job("a", "evaluate", "1"), job("b", "dataset", "2"), job("a", "trainer", "3")
    other = job("a", "evaluate", "4", claim="other")

    def name(*jobs: dict[str, Any]) -> str:
        found = like(jobs, "qednano", "a")
        return found["metadata"]["name"] if found else ""

    assert name(trainer, own, later, other) == "a-evaluate"
    assert name(trainer, later, other) == "b-dataset"
    assert name(trainer, other) == "a-trainer"
    assert name(other) == ""


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"image": "x/y:1", "state": state}]}


@pytest.mark.parametrize(
    ("status", "why", "hopeless"),
    [
        ({"phase": "Running"}, "", False),
        ({}, "waits for its node", False),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes\nfit"}]},
            "can't be scheduled: 0/3 nodes fit",
            False,
        ),
        (waiting("ErrImagePull"), "can't pull its image x/y:1", False),
        (waiting("ImagePullBackOff"), "can't pull its image x/y:1", True),
        (waiting("CreateContainerError", "no such volume"), "no such volume", True),
        (waiting("ContainerCreating"), "waits for its node", False),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "it has ended (DeadlineExceeded)", True),
        ({"phase": "Failed", "message": "node is gone"}, "node is gone", True),
    ],
)
def test_why_it_does_not_run_yet(status: dict[str, Any], why: str, hopeless: bool) -> None:
    assert obstacle({"status": status}) == (why, hopeless)
