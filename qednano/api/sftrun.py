"""SFTRun: supervised fine-tuning of one model on the proofs of one dataset."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import (
    ApiModel,
    DatasetRef,
    DecimalString,
    ModelRef,
    RunSpec,
    exactly_one,
    exactly_one_rule,
    rule,
)
from qednano.api.engine import SHARED_ROWS, CheckpointPolicy, Engine, Optimisation
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
                exactly_one_rule("max_steps", "epochs"),
                rule(
                    "!has(self.maxSteps) || self.warmupSteps <= self.maxSteps", "warmupSteps must not exceed maxSteps"
                ),
                SHARED_ROWS,
            ]
        }
    )

    max_steps: int | None = Field(default=None, ge=1, le=10000000, description="Optimizer steps.")
    epochs: int | None = Field(
        default=None, ge=1, le=10000, description="How often the examples are seen, in place of maxSteps."
    )
    batch_tokens: int = Field(
        default=65536, ge=16, le=268435456, description="Tokens of one optimizer step, over all processes."
    )

    @model_validator(mode="after")
    def _steps(self) -> SFTTrainer:
        exactly_one(self, "max_steps", "epochs")
        if self.max_steps is not None and self.warmup_steps > self.max_steps:
            raise ValueError(f"warmupSteps is {self.warmup_steps}; it must not exceed maxSteps ({self.max_steps})")
        return self


class MixedIn(ApiModel):
    """A further dataset, and how much of it an epoch holds."""

    dataset: DatasetRef = Field(description="Problems with solutions.")
    weight: DecimalString = Field(
        default=Decimal("1"),
        description="How often an epoch shows each example: 2 shows each twice, 0.5 half of them and the other half in "
        "the next epoch.",
    )

    @model_validator(mode="after")
    def _positive(self) -> MixedIn:
        if not 0 < self.weight <= 1000:
            raise ValueError(f"weight is {self.weight}; it must be above 0 and at most 1000")
        return self


class Validation(ApiModel):
    """Loss on rows that are not trained on."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("dataset", "hold_out")]})

    dataset: DatasetRef | None = Field(default=None, description="Problems with solutions of their own.")
    hold_out: int | None = Field(
        default=None,
        ge=1,
        le=1000000,
        description="So many problems, drawn from spec.dataset by the seed, are kept out of training for it.",
    )
    every_steps: int = Field(
        default=50, ge=1, le=1000000, description="Optimizer steps between measurements; the last step has one too."
    )

    @model_validator(mode="after")
    def _one(self) -> Validation:
        exactly_one(self, "dataset", "hold_out")
        return self


class SFTRunSpec(RunSpec):
    """Supervised fine-tuning: loss on reasoning and proof only, rows packed."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.checkpoint.keepBest == 0 || has(self.validation)",
                    "checkpoint.keepBest needs spec.validation, whose loss says which checkpoints are best",
                )
            ]
        }
    )

    model: SFTModelRef = Field(description="The model to start from.")
    dataset: DatasetRef = Field(description="Problems with solutions.")
    mixture: list[MixedIn] = Field(
        default_factory=list, max_length=16, description="Further datasets, mixed with the one above."
    )
    validation: Validation | None = Field(default=None, description="Loss on rows that are not trained on.")
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
    def _best(self) -> SFTRunSpec:
        if self.checkpoint.keep_best and self.validation is None:
            raise ValueError(
                f"checkpoint.keepBest is {self.checkpoint.keep_best}; it needs spec.validation, whose loss says which "
                "checkpoints are best"
            )
        return self

    @model_validator(mode="after")
    def _evaluations(self) -> SFTRunSpec:
        check_evaluations(self.evaluations)
        return self
