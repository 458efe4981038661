"""Which EvalRuns a training run's checkpoints call for, and which checkpoint is best."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from qednano.api import KINDS, EvalRunSpec
from qednano.api.evalrun import Continuous
from qednano.evals.continuous import record
from qednano.plan import export_path, references
from qednano.plan.evaluations import Scored, best_checkpoint, due_evaluations, evaluation_name, wants

GRADER = {"checker": {"name": "tiny-divisibility"}}
TEMPLATE = EvalRunSpec.model_validate(
    {
        "model": {"uri": "/qed/base"},
        "baselines": [{"name": "other", "model": {"uri": "/qed/other"}}],
        "benchmark": {"proofDataset": {"name": "tiny", "split": "test"}},
        "grader": GRADER,
        "suspend": True,
        "samplesPerProblem": 4,
    }
)


def run_with(*evaluations: dict, name: str = "tiny-rl"):
    spec = {
        "model": {"sftRun": {"name": "tiny-sft"}},
        "dataset": {"proofDataset": {"name": "tiny"}},
        "algorithm": {"maxSteps": 70, "groupSize": 8, "problemsPerStep": 4},
        "trainer": {"sequenceLength": 2048},
        "grader": GRADER,
        "evaluations": list(evaluations),
    }
    return KINDS["RLRun"].model_validate({"kind": "RLRun", "metadata": {"name": name}, "spec": spec})


def test_each_chosen_step_becomes_a_copy_of_the_named_evaluation():
    run = run_with({"name": "dev", "evalRun": "template", "everySteps": 20, "limit": 50, "best": True,
                    "priorityClassName": "low"})  # fmt: skip
    made = due_evaluations(run, [20, 30, 40, 70], ["tiny-rl-dev-20"], {"template": TEMPLATE})
    assert [item["metadata"]["name"] for item in made] == ["tiny-rl-dev-40", "tiny-rl-dev-70"]
    spec = KINDS["EvalRun"].model_validate(made[0]).spec
    (model, *_) = references(spec)
    assert (model.kind, model.name, model.part) == ("RLRun", "tiny-rl", "step/40")
    assert (spec.benchmark.limit, spec.samples_per_problem, spec.model_name) == (50, 4, "step-40")
    assert not spec.suspend and not spec.baselines and spec.scheduling.priority_class_name == "low"
    assert spec.continuous == Continuous(evaluation="dev", step=40, best=True)


def test_without_its_template_an_evaluation_waits():
    assert due_evaluations(run_with({"name": "dev", "evalRun": "absent", "everySteps": 1}), [1], [], {}) == []


def test_the_trainer_keeps_what_is_wanted_and_no_more():
    spec = run_with({"name": "dev", "evalRun": "template", "everySteps": 20, "steps": [5]}).spec
    assert [step for step in range(71) if wants(spec, step, 70)] == [5, 20, 40, 60, 70]


def test_the_last_step_of_epochs_is_evaluated_once_the_trainer_has_counted_it():
    spec = {
        "model": {"init": {}},
        "dataset": {"proofDataset": {"name": "tiny"}},
        "trainer": {"epochs": 2},
        "evaluations": [{"name": "dev", "evalRun": "template"}],
    }
    run = KINDS["SFTRun"].model_validate({"kind": "SFTRun", "metadata": {"name": "tiny-sft"}, "spec": spec})
    templates = {"template": TEMPLATE}
    assert not due_evaluations(run, [0, 34], [], templates), "nobody knows yet that 34 is the last"
    made = due_evaluations(run, [0, 20, 34], [], templates, counted=34)
    assert [item["metadata"]["name"] for item in made] == ["tiny-sft-dev-34"]


def test_names_of_long_runs_fit_and_stay_apart():
    names = {evaluation_name("a" * 39 + last, "dev", 100) for last in "bc"}
    assert len(names) == 2 and all(len(name) <= 40 for name in names)


@pytest.mark.parametrize(
    ("evaluations", "complaint"),
    [
        ([{"name": "a", "evalRun": "t"}] * 2, "the name a twice"),
        ([{"name": "a", "evalRun": "t", "final": False}], "never runs"),
        ([{"name": n, "evalRun": "t", "best": True} for n in "ab"], "one evaluation chooses"),
    ],
)
def test_evaluations_that_make_no_sense_are_refused(evaluations, complaint):
    with pytest.raises(ValidationError, match=complaint):
        run_with(*evaluations)


def test_the_best_checkpoint_is_the_highest_and_of_equal_ones_the_earliest():
    scores = [Scored(20, 0.5, 0.4, 0.6), Scored(60, 0.7, 0.6, 0.8), Scored(40, 0.7, 0.6, 0.8)]
    assert best_checkpoint(scores) == scores[2]
    assert best_checkpoint([]) is None


def test_evaluations_leave_curve_and_best_with_the_training_run_in_any_order(tmp_path: Path):
    for step, score in ((40, 0.6), (20, 0.7), (60, 0.5)):
        model = tmp_path / export_path(step)
        model.mkdir(parents=True)
        estimate = SimpleNamespace(mean=score, low=score - 0.1, high=score + 0.1)
        found = SimpleNamespace(models=[SimpleNamespace(score=estimate)])
        record(Continuous(evaluation="dev", step=step, best=True), model, found)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["step"] == 20 and [item["step"] for item in best["curve"]] == [20, 40, 60]
    assert (tmp_path / "best").resolve() == tmp_path / export_path(20)
    with pytest.raises(ValueError, match="not an export"):
        record(Continuous(evaluation="dev", step=40), tmp_path / "elsewhere", found)
