"""Continuous evaluation: which EvalRuns the checkpoints of a training run call for, and which one is best. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qednano.api.common import API_VERSION, NAME_LIMIT, RunSpec
from qednano.api.evalrun import EvalRunSpec
from qednano.api.evaluations import Evaluation
from qednano.api.kinds import Run
from qednano.api.rlrun import RLRunSpec
from qednano.api.sftrun import SFTRunSpec

OF_LABEL = "qednano.dev/evaluates"
"""Label of an EvalRun: the training run that it belongs to."""

_REFERENCES = {"SFTRun": "sftRun", "RLRun": "rlRun"}


@dataclass(frozen=True)
class Scored:
    """What an evaluation said of one step: shares (0 to 1)."""

    step: int
    score: float
    low: float
    high: float


NAME_TAKEN = "NameTaken"
"""Phase that a training run's status gives an evaluation whose name an EvalRun of somebody else has."""

STEPS = "steps"
"""Of the metrics that a training run ends with: how many optimizer steps it took."""


def last_step(spec: RunSpec, counted: int = 0) -> int:
    """The step that ends a training run; TypeError for a run that trains nothing.

    The steps of epochs depend on the dataset and the tokenizer, so only the trainer can count them: ``counted`` is what
    it has told, 0 before.
    """
    if isinstance(spec, SFTRunSpec):
        return spec.trainer.max_steps or counted
    if isinstance(spec, RLRunSpec):
        return spec.algorithm.max_steps
    raise TypeError(f"{type(spec).__name__} has no optimizer steps")


def chooses(evaluation: Evaluation, step: int, last: int) -> bool:
    """Whether the evaluation wants the weights after `step` of a run of `last` steps."""
    regular = evaluation.every_steps > 0 and step > 0 and step % evaluation.every_steps == 0
    return regular or step in evaluation.steps or (evaluation.final and 0 < step == last)


def wants(spec: RunSpec, step: int, last: int) -> bool:
    """Whether the trainer of a run of `last` steps has to keep the weights after `step`: some evaluation is of them."""
    evaluations: Sequence[Evaluation] = getattr(spec, "evaluations", ())
    return any(chooses(item, step, last) for item in evaluations)


def evaluation_name(run: str, evaluation: str, step: int) -> str:
    """`<run>-<evaluation>-<step>`; a long run's name gives way to the start of it and a hash of all of it."""
    tail = f"-{evaluation}-{step}"
    if len(run) + len(tail) <= NAME_LIMIT:
        return run + tail
    digest = hashlib.sha256(run.encode()).hexdigest()[:6]
    return f"{run[: NAME_LIMIT - len(tail) - 7].rstrip('-')}-{digest}{tail}"


def due_evaluations(
    run: Run,
    checkpoints: Iterable[int],
    existing: Iterable[str],
    templates: Mapping[str, EvalRunSpec],
    counted: int = 0,
) -> list[dict[str, Any]]:
    """Manifests of the EvalRuns still to be made, earliest step first.

    ``checkpoints`` are the steps whose weights the run has exported (``references.export_path``), ``existing`` the
    names of EvalRuns that are there, ``templates`` the specs of those that ``spec.evaluations`` names; an evaluation
    whose EvalRun is not there yet makes nothing. ``counted``: see ``last_step``. Each manifest is complete but for its
    owner, which is the runner's to add.
    """
    spec: Any = run.spec
    evaluations: Sequence[Evaluation] = getattr(spec, "evaluations", ())
    known, last = set(existing), last_step(spec, counted)
    found = []
    for step in sorted(set(checkpoints)):
        for item in evaluations:
            name = evaluation_name(run.metadata.name, item.name, step)
            if chooses(item, step, last) and name not in known and item.eval_run in templates:
                found.append(_manifest(run, item, step, name, templates[item.eval_run]))
    return found


_NOT_COPIED = {"model", "model_name", "baselines", "suspend", "continuous"}


def _manifest(run: Run, item: Evaluation, step: int, name: str, template: EvalRunSpec) -> dict[str, Any]:
    spec = template.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True, exclude=_NOT_COPIED)
    if item.limit:
        spec["benchmark"]["limit"] = item.limit
    if item.samples_per_problem:
        spec["samplesPerProblem"] = item.samples_per_problem
    if item.priority_class_name:
        spec.setdefault("scheduling", {})["priorityClassName"] = item.priority_class_name
    spec |= {
        "model": {_REFERENCES[run.kind]: {"name": run.metadata.name, "step": step}},
        "modelName": f"step-{step}",
        "continuous": {"evaluation": item.name, "step": step, "best": item.best},
    }
    labels = {OF_LABEL: run.metadata.name}
    return {
        "apiVersion": API_VERSION,
        "kind": "EvalRun",
        "metadata": {"name": name, "namespace": run.metadata.namespace, "labels": labels},
        "spec": spec,
    }


def best_checkpoint(scores: Iterable[Scored]) -> Scored | None:
    """The step of the highest score; of equal ones the earliest. None without any."""
    return max(scores, key=lambda item: (item.score, -item.step), default=None)


def best_file(evaluation: str, scores: Mapping[int, Scored], best: Scored) -> dict[str, Any]:
    """What ``best.json`` of a training run's folder holds: the choice, and the curve that it was made from."""
    return {
        "evaluation": evaluation,
        "step": best.step,
        "score": best.score,
        "low": best.low,
        "high": best.high,
        "curve": [
            {"step": item.step, "score": item.score, "low": item.low, "high": item.high}
            for item in sorted(scores.values(), key=lambda item: item.step)
        ],
    }
