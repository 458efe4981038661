"""EvalRun: score models on a benchmark."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field, model_validator

from qednano.api.benchmark import Benchmark
from qednano.api.common import (
    ApiModel,
    ModelRef,
    Name,
    Resources,
    RunSpec,
    Server,
    exactly_one,
    exactly_one_rule,
    rule,
)
from qednano.api.grader import Grader
from qednano.api.grader_evaluation import GraderEvaluation
from qednano.api.language import ChatSampling, Endpoint
from qednano.api.scaffold import Scaffold


class EvaluatedModel(ModelRef):
    """A model that is evaluated: one that the run serves itself, or one at an endpoint."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("uri", "sft_run", "rl_run", "endpoint")]}
    )

    endpoint: Endpoint | None = Field(default=None, description="A server that is there already.")

    @model_validator(mode="after")
    def _one(self) -> EvaluatedModel:
        exactly_one(self, "uri", "sft_run", "rl_run", "endpoint")
        return self


class Baseline(ApiModel):
    """A model to compare with, on the same problems."""

    name: Name = Field(description="What tables and charts call it.")
    model: EvaluatedModel = Field(
        description="The model; of the same architecture and tokenizer as the others that the run serves."
    )


class Continuous(ApiModel):
    """Which continuous evaluation of a training run this is; set by whoever made the EvalRun."""

    evaluation: Name = Field(description="Name of the evaluation in the training run's spec.evaluations.")
    step: int = Field(ge=1, le=1000000, description="The optimizer step whose weights are evaluated.")
    best: bool = Field(default=False, description="The score takes part in choosing the run's best checkpoint.")


class EvalRunSpec(RunSpec):
    """An evaluation of one model, with baselines on the same problems; or of graders, on proofs that people scored."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.sampling.maxTokens < self.server.maxModelLength",
                    "sampling.maxTokens must be below server.maxModelLength, which holds the prompt too",
                ),
                rule(
                    "has(self.graderEvaluation) ? !(has(self.model) || has(self.benchmark) || has(self.grader)) : "
                    "(has(self.model) && has(self.benchmark) && has(self.grader))",
                    "set model, benchmark and grader to evaluate a model, or graderEvaluation alone for graders",
                ),
            ]
        }
    )

    model: EvaluatedModel | None = Field(default=None, description="The model to evaluate.")
    model_name: Name = Field(default="model", description="What tables and charts call the model.")
    baselines: list[Baseline] = Field(
        default_factory=list,
        max_length=8,
        description="Models to compare with.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    benchmark: Benchmark | None = Field(default=None, description="Problems to evaluate on.")
    scaffold: Scaffold = Field(default_factory=Scaffold, description="How the model is asked.")
    samples_per_problem: int = Field(default=1, ge=1, le=1024, description="Samples drawn for each problem.")
    sampling: ChatSampling = Field(default_factory=ChatSampling, description="How samples are drawn.")
    grader: Grader | None = Field(default=None, description="How proofs are graded.")
    correct_score: int = Field(
        default=7, ge=1, le=7, description="Lowest score of a proof that counts as correct, in pass@k and all tables."
    )
    grader_evaluation: GraderEvaluation | None = Field(
        default=None,
        description="Evaluate graders in place of a model; model, benchmark, scaffold and grader are left out.",
    )
    shards: int = Field(
        default=1, ge=1, le=64, description="Evaluating jobs; each takes its share of the problems, the first merges."
    )
    server: Server = Field(default_factory=Server, description="vLLM servers of the model.")
    resources: Resources = Field(default_factory=Resources, description="What one evaluating job asks for.")
    continuous: Continuous | None = Field(
        default=None, description="Set on EvalRuns that a training run's spec.evaluations called for."
    )

    mutable: ClassVar[tuple[str, ...]] = RunSpec.mutable

    @model_validator(mode="after")
    def _consistent(self) -> EvalRunSpec:
        self._one_mode()
        names = [self.model_name, *(baseline.name for baseline in self.baselines)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name} is used twice among modelName and baselines; give each its own")
        if self.sampling.max_tokens >= self.server.max_model_length:
            raise ValueError(
                f"sampling.maxTokens is {self.sampling.max_tokens}; it must be below server.maxModelLength "
                f"({self.server.max_model_length}), which holds the prompt too"
            )
        return self

    def _one_mode(self) -> None:
        needed = {"model": self.model, "benchmark": self.benchmark, "grader": self.grader}
        given = [name for name, value in needed.items() if value is not None]
        if self.grader_evaluation is not None:
            if given or self.baselines:
                raise ValueError(
                    f"graderEvaluation evaluates graders, and {' and '.join(given or ['baselines'])} belong to the "
                    "evaluation of a model: leave out one or the other"
                )
            if self.shards != 1:
                raise ValueError(f"shards is {self.shards}; graderEvaluation takes one job")
        elif missing := [name for name in needed if name not in given]:
            raise ValueError(
                f"{' and '.join(missing)} must be set to evaluate a model; or graderEvaluation alone, for graders"
            )

    @property
    def contenders(self) -> list[tuple[str, str, EvaluatedModel]]:
        """Field, name and model of all that are evaluated, the run's own model first; none when graders are."""
        if self.model is None:
            return []
        return [("model", self.model_name, self.model)] + [
            (f"baselines/{number}", item.name, item.model) for number, item in enumerate(self.baselines)
        ]
