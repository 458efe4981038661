"""EvalRun: score models on a benchmark."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict, Field, model_validator

from qednano.api.common import (
    ApiModel,
    DatasetRef,
    ModelRef,
    Name,
    Resources,
    RunSpec,
    Sampling,
    Server,
    rule,
)
from qednano.api.grader import Grader


class Baseline(ApiModel):
    """A model to compare with, on the same problems."""

    name: Name = Field(description="What tables and charts call it.")
    model: ModelRef = Field(description="The model; of the same architecture and tokenizer as spec.model.")


class Benchmark(DatasetRef):
    """The problems of an evaluation."""

    limit: int = Field(default=0, ge=0, le=1000000, description="Take the first so many problems; 0 takes all.")


class ScaffoldType(StrEnum):
    """How a model is asked."""

    SINGLE_PASS = "SinglePass"


class Scaffold(ApiModel):
    """The test-time scaffold."""

    type: ScaffoldType = Field(default=ScaffoldType.SINGLE_PASS, description="SinglePass: one request a sample.")


class EvalRunSpec(RunSpec):
    """An evaluation of one model, with baselines on the same problems."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.sampling.maxTokens < self.server.maxModelLength",
                    "sampling.maxTokens must be below server.maxModelLength, which holds the prompt too",
                )
            ]
        }
    )

    model: ModelRef = Field(description="The model to evaluate.")
    model_name: Name = Field(default="model", description="What tables and charts call the model.")
    baselines: list[Baseline] = Field(
        default_factory=list,
        max_length=8,
        description="Models to compare with.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    benchmark: Benchmark = Field(description="Problems to evaluate on.")
    scaffold: Scaffold = Field(default_factory=Scaffold, description="How the model is asked.")
    samples_per_problem: int = Field(default=1, ge=1, le=1024, description="Samples drawn for each problem.")
    sampling: Sampling = Field(default_factory=Sampling, description="How samples are drawn.")
    grader: Grader = Field(description="How proofs are graded.")
    server: Server = Field(default_factory=Server, description="vLLM servers of the model.")
    resources: Resources = Field(default_factory=Resources, description="What the evaluating job asks for.")

    mutable: ClassVar[tuple[str, ...]] = RunSpec.mutable

    @model_validator(mode="after")
    def _consistent(self) -> EvalRunSpec:
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
