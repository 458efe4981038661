"""SFTRun: supervised fine-tuning of one model on the proofs of one dataset."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import (
    ApiModel,
    DatasetRef,
    ModelRef,
    RunSpec,
    exactly_one,
    exactly_one_rule,
    rule,
)
from qednano.api.engine import CheckpointPolicy, Engine, Optimisation
from qednano.api.evaluations import Evaluation, check_evaluations


class InitialModel(ApiModel):
    """A new model with random weights, for the tiny task and for tests."""

    tokenizer: Annotated[str, StringConstraints(pattern="^tiny-divisibility$", max_length=63)] = Field(
        default="tiny-divisibility", description="Which built-in tokenizer and chat template."
    )
    hidden_size: int = Field(default=128, ge=32, le=4096, description="Width of the residual stream.")
    layers: int = Field(default=4, ge=1, le=64, description="Transformer blocks.")
    heads: int = Field(default=4, ge=1, le=64, description="Attention heads.")
    kv_heads: int = Field(default=2, ge=1, le=64, description="Key-value heads.")
    mlp_size: int = Field(default=384, ge=32, le=16384, description="Width of the MLP.")
    max_length: int = Field(default=512, ge=32, le=131072, description="Longest sequence, in tokens.")

    @model_validator(mode="after")
    def _shapes(self) -> InitialModel:
        if self.hidden_size % self.heads:
            raise ValueError(f"hiddenSize is {self.hidden_size}; it must be a multiple of heads ({self.heads})")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads is {self.heads}; it must be a multiple of kvHeads ({self.kv_heads})")
        return self


class SFTModelRef(ModelRef):
    """A model to start from: as a model reference, or a new one."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("uri", "sft_run", "rl_run", "init")]}
    )

    init: InitialModel | None = Field(default=None, description="A new Qwen3 with random weights.")

    @model_validator(mode="after")
    def _one(self) -> SFTModelRef:
        exactly_one(self, "uri", "sft_run", "rl_run", "init")
        return self


class SFTTrainer(Engine, Optimisation):
    """The trainer of an SFTRun."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.warmupSteps <= self.maxSteps", "warmupSteps must not exceed maxSteps")
            ]
        }
    )

    max_steps: int = Field(ge=1, le=10000000, description="Optimizer steps.")
    batch_tokens: int = Field(
        default=65536, ge=16, le=268435456, description="Tokens of one optimizer step, over all processes."
    )

    @model_validator(mode="after")
    def _steps(self) -> SFTTrainer:
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmupSteps is {self.warmup_steps}; it must not exceed maxSteps ({self.max_steps})")
        return self


class SFTRunSpec(RunSpec):
    """Supervised fine-tuning: loss on the proof only, rows packed."""

    model: SFTModelRef = Field(description="The model to start from.")
    dataset: DatasetRef = Field(description="Problems with solutions.")
    trainer: SFTTrainer = Field(description="Engine and optimizer.")
    checkpoint: CheckpointPolicy = Field(default_factory=CheckpointPolicy, description="When to save.")
    evaluations: list[Evaluation] = Field(
        default_factory=list,
        max_length=4,
        description="Evaluations of chosen checkpoints while the run goes on.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    mutable: ClassVar[tuple[str, ...]] = RunSpec.mutable

    @model_validator(mode="after")
    def _evaluations(self) -> SFTRunSpec:
        check_evaluations(self.evaluations)
        return self
