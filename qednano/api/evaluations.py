"""Continuous evaluation of a training run: which checkpoints, and as which EvalRun."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from qednano.api.common import NAME_PATTERN, ApiModel, Name, ShortText

Step = Annotated[int, Field(ge=1, le=1000000)]


class Evaluation(ApiModel):
    """An EvalRun for each chosen checkpoint: a copy of one that is there, with the checkpoint as its model."""

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=12)] = Field(
        description="Short name; the EvalRuns are <run>-<name>-<step>."
    )
    eval_run: Name = Field(
        description="The EvalRun whose spec is copied, but for model, modelName, baselines and suspend. One that is "
        "suspended serves as a template alone."
    )
    every_steps: int = Field(
        default=0, ge=0, le=1000000, description="Evaluate the weights after every so many steps; 0: of `steps` alone."
    )
    steps: list[Step] = Field(
        default_factory=list, max_length=64, description="Evaluate the weights after these steps."
    )
    final: bool = Field(default=True, description="Evaluate the run's last step too.")
    limit: int = Field(default=0, ge=0, le=1000000, description="The first so many problems; 0: as the EvalRun says.")
    samples_per_problem: int = Field(default=0, ge=0, le=1024, description="Samples; 0: as the EvalRun says.")
    best: bool = Field(default=False, description="Its score chooses the run's best checkpoint.")
    priority_class_name: ShortText = Field(
        default="", description="PriorityClass of the EvalRuns' pods; absent: as the EvalRun says."
    )


def check_evaluations(evaluations: list[Evaluation]) -> None:
    """Raise ValueError unless each has its own name, something to evaluate, and at most one chooses the best."""
    names = [item.name for item in evaluations]
    for number, item in enumerate(evaluations):
        if names.count(item.name) > 1:
            raise ValueError(f"evaluations has the name {item.name} twice; give each its own")
        if not item.every_steps and not item.steps and not item.final:
            raise ValueError(f"evaluations[{number}] ({item.name}) never runs: set everySteps, steps or final")
    if sum(item.best for item in evaluations) > 1:
        chosen = " and ".join(item.name for item in evaluations if item.best)
        raise ValueError(f"evaluations {chosen} both say best: true; one evaluation chooses the best checkpoint")
