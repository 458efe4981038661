"""What is evaluated how: the part that an EvalRun and the evaluations of a training run have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from qednano.api.common import ApiModel, DatasetRef, Resources, Server
from qednano.api.grader import Grader
from qednano.api.language import ChatSampling
from qednano.api.scaffold import Scaffold


class Benchmark(DatasetRef):
    """The problems of an evaluation."""

    limit: int = Field(default=0, ge=0, le=1000000, description="Take the first so many problems; 0 takes all.")


class EvalTemplate(ApiModel):
    """Benchmark, scaffold, grader and servers of an evaluation, whichever model it is of."""

    benchmark: Benchmark = Field(description="Problems to evaluate on.")
    scaffold: Scaffold = Field(default_factory=Scaffold, description="How the model is asked.")
    samples_per_problem: int = Field(default=1, ge=1, le=1024, description="Samples drawn for each problem.")
    sampling: ChatSampling = Field(default_factory=ChatSampling, description="How samples are drawn.")
    grader: Grader = Field(description="How proofs are graded.")
    shards: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Evaluating jobs; each takes its share of the problems, the first one merges.",
    )
    server: Server = Field(default_factory=Server, description="vLLM servers of the model.")
    resources: Resources = Field(default_factory=Resources, description="What one evaluating job asks for.")

    @model_validator(mode="after")
    def _lengths(self) -> EvalTemplate:
        if self.sampling.max_tokens >= self.server.max_model_length:
            raise ValueError(
                f"sampling.maxTokens is {self.sampling.max_tokens}; it must be below server.maxModelLength "
                f"({self.server.max_model_length}), which holds the prompt too"
            )
        return self


Step = Annotated[int, Field(ge=1, le=1000000)]


class Evaluation(EvalTemplate):
    """One continuous evaluation of a training run: an EvalRun for each of its checkpoints that is chosen."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=12)] = Field(
        description="Short name; the EvalRuns are <run>-<name>-<step>."
    )
    every_steps: int = Field(
        default=0, ge=0, le=1000000, description="Evaluate the checkpoint of every so many steps; 0: of `steps` alone."
    )
    steps: list[Step] = Field(
        default_factory=list, max_length=64, description="Evaluate the checkpoints of these steps."
    )
    final: bool = Field(default=True, description="Evaluate the run's last step too.")
    best: bool = Field(default=False, description="Its score chooses the run's best checkpoint.")
    priority_class_name: Annotated[str, Field(max_length=253)] = Field(
        default="", description="PriorityClass of the EvalRuns' pods; absent: one below the training run's own."
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
