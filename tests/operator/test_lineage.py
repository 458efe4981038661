"""What a run is made from is resolved once, pinned by digest in its status, and handed to its jobs as it was then."""

from __future__ import annotations

import json
from typing import Any

import pytest
from qednano_operator.dependencies import resolve

from qednano.api import KINDS
from qednano.errors import InputChanged
from qednano.progress import ProgressReport
from tests.operator.harness import manifest
from tests.operator.simulation import Simulation

DIGEST = "sha256:" + "1" * 64
SPLIT = {"proofDataset": {"name": "data", "split": "sft"}}
MODEL = {"sftRun": {"name": "base"}}


def finished(kind: str, name: str, digest: str = DIGEST, **status: Any) -> dict[str, Any]:
    """A run that has ended well."""
    run = manifest(kind, name, "ns")
    run["metadata"]["uid"] = f"uid-of-{name}"
    artifact = {"uri": f"/qed/ns/{kind.lower()}/{name}-1/artifact", "digest": digest}
    run["status"] = {"phase": "Succeeded", "runDir": f"/qed/ns/{kind.lower()}/{name}-1", "artifact": artifact, **status}
    return run


OTHERS = {
    ("ProofDataset", "data"): finished("ProofDataset", "data"),
    ("SFTRun", "base"): finished("SFTRun", "base"),
    ("RLRun", "rl"): finished("RLRun", "rl"),
}


@pytest.mark.parametrize(
    ("kind", "fields", "pinned"),
    [
        ("SFTRun", {"model": {"sftRun": {"name": "base"}}, "dataset": SPLIT}, {"model", "dataset"}),
        ("SFTRun", {"model": {"rlRun": {"name": "rl"}}, "dataset": SPLIT}, {"model", "dataset"}),
        ("RLRun", {"model": MODEL, "dataset": SPLIT}, {"model", "dataset"}),
        ("EvalRun", {"model": {"rlRun": {"name": "rl"}}, "benchmark": SPLIT}, {"model", "benchmark"}),
    ],
)
def test_every_reference_is_pinned_by_digest(kind: str, fields: dict[str, Any], pinned: set[str]) -> None:
    spec = KINDS[kind].spec_type().model_validate({**manifest(kind, "x", "ns")["spec"], **fields})
    found = resolve(spec, "ns", OTHERS)
    assert found.ready, found.message
    digests = {item.field: item.digest for item in found.inputs if item.name}
    assert digests == dict.fromkeys(pinned, DIGEST)


def test_what_was_pinned_at_the_start_stays_whatever_becomes_of_its_source() -> None:
    run = Simulation.of("SFTRun", model=MODEL, dataset=SPLIT)
    run.others = dict(OTHERS)
    run.settle(code=None)
    before = run.status["inputs"]
    assert {item["field"]: item["digest"] for item in before} == {"model": DIGEST, "dataset": DIGEST}
    (config,) = [obj for (kind, _), obj in run.objects.items() if kind == "ConfigMap"]
    given = json.loads(config["data"]["config.json"])["inputs"]
    assert {name: item["digest"] for name, item in given.items()} == {"model": DIGEST, "dataset": DIGEST}
    run.others = {("SFTRun", "base"): finished("SFTRun", "base", digest="sha256:" + "2" * 64)}
    run.settle(code=None)
    assert run.status["inputs"] == before


def test_digests_that_only_the_runs_processes_can_know_are_pinned_once() -> None:
    run = Simulation.of("RLRun", model={"uri": "/qed/model"}, dataset={"uri": "/qed/data.parquet"})
    run.settle(code=None)

    def told(**digests: str) -> dict[str, str]:
        run.reports = {"trainer": ProgressReport(step=1, total=10, inputs=digests)}
        run.settle(code=None)
        return {item["field"]: item.get("digest", "") for item in run.status["inputs"]}

    assert told(model="sha256:beef", elsewhere=DIGEST) == {"model": "", "dataset": ""}
    assert told(model=DIGEST) == {"model": DIGEST, "dataset": ""}
    other = "sha256:" + "2" * 64
    assert told(model=other, dataset=other) == {"model": DIGEST, "dataset": other}


def test_a_run_that_ends_before_it_is_asked_leaves_the_digests_in_its_last_words() -> None:
    run = Simulation.of("SFTRun")
    run.settle(code=None)
    (pod,) = run.pods("trainer")
    run.end(pod, 0)
    words = json.dumps({"outcome": "Succeeded", "inputs": {"dataset": DIGEST}})
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = words
    run.settle()
    assert [item["digest"] for item in run.status["inputs"]] == [DIGEST]


def test_an_input_that_changed_ends_the_run_in_plain_words() -> None:
    run = Simulation.of("SFTRun")
    run.settle(code=None)
    (pod,) = run.pods("trainer")
    run.end(pod, InputChanged.exit_code)
    text = "the input dataset, /qed/data.parquet, was sha256:1 when the run first read it and is sha256:2 now"
    words = json.dumps({"outcome": "Failed", "reason": InputChanged.reason, "message": text})
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = words
    run.settle()
    (failed,) = [item for item in run.status["conditions"] if item["type"] == "Failed"]
    assert (run.status["phase"], failed["reason"], failed["message"]) == ("Failed", "InputChanged", text)


def test_the_weights_of_a_step_are_not_taken_for_another_run() -> None:
    """Their digest is that of their own files, and never the one of what the run made in the end."""
    run = Simulation.of("EvalRun", model={"rlRun": {"name": "rl", "step": 5}})
    run.others = {("RLRun", "rl"): finished("RLRun", "rl", progress={"exports": [5]})}
    run.settle(code=None)
    run.reports = {"evaluate": ProgressReport(step=1, total=10, inputs={"model": "sha256:" + "3" * 64})}
    run.settle(code=None)
    pinned = {item["field"]: item.get("digest") for item in run.status["inputs"]}
    assert pinned == {"model": "sha256:" + "3" * 64, "benchmark": None}
    (ready,) = [item for item in run.status["conditions"] if item["type"] == "DependenciesReady"]
    assert ready["reason"] == "Resolved"
