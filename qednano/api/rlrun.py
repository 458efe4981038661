"""RLRun: asynchronous reinforcement learning on graded proofs."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict, Field, model_validator

from qednano.api.common import (
    ApiModel,
    DatasetRef,
    DecimalString,
    ModelRef,
    Resources,
    RunSpec,
    Sampling,
    Server,
    rule,
)
from qednano.api.engine import CheckpointPolicy, Engine, Optimisation
from qednano.api.evaluations import Evaluation, check_evaluations
from qednano.api.grader import Grader


class Loss(StrEnum):
    """Policy-gradient objective."""

    REINFORCE = "REINFORCE"
    PPO = "PPO"
    CISPO = "CISPO"
    GSPO = "GSPO"


class Advantage(StrEnum):
    """How rewards of a group become advantages."""

    MEAN_CENTRED = "MeanCentred"
    LEAVE_ONE_OUT = "LeaveOneOut"
    STD_SCALED = "StdScaled"
    BATCH_SCALED = "BatchScaled"


class Aggregation(StrEnum):
    """How token losses become one number."""

    CONSTANT = "Constant"
    TOKEN_MEAN = "TokenMean"
    SEQUENCE_MEAN = "SequenceMean"


class Overlong(StrEnum):
    """What happens to completions cut off by the token limit."""

    NONE = "None"
    PENALTY = "Penalty"
    FILTER = "Filter"


class Algorithm(ApiModel):
    """Objective and batch of the RL run."""

    loss: Loss = Field(
        default=Loss.REINFORCE,
        description="REINFORCE with truncated importance weights, PPO clip, CISPO or GSPO.",
    )
    advantage: Advantage = Field(
        default=Advantage.MEAN_CENTRED,
        description="MeanCentred, LeaveOneOut, StdScaled (by the group), or BatchScaled (centred by the group, "
        "scaled by the batch's standard deviation).",
    )
    aggregation: Aggregation = Field(
        default=Aggregation.CONSTANT, description="Constant (sum over samples per batch), TokenMean or SequenceMean."
    )
    group_size: int = Field(default=16, ge=2, le=256, description="Samples of one problem that form a group.")
    problems_per_step: int = Field(default=64, ge=1, le=4096, description="Groups of one optimizer step.")
    max_steps: int = Field(ge=1, le=1000000, description="Optimizer steps.")
    max_staleness: int = Field(
        default=4, ge=0, le=1000, description="Oldest weights a sample may come from, in optimizer steps."
    )
    importance_cap: DecimalString = Field(
        default=Decimal("5"), description="REINFORCE: importance weights are truncated here."
    )
    clip_low: DecimalString = Field(default=Decimal("0.2"), description="PPO, CISPO, GSPO: ratio floor is 1 - this.")
    clip_high: DecimalString = Field(default=Decimal("0.2"), description="PPO, CISPO, GSPO: ratio cap is 1 + this.")
    entropy_bonus: DecimalString = Field(default=Decimal("0"), description="Weight of the entropy bonus.")
    drop_zero_variance: bool = Field(
        default=True, description="Drop groups whose rewards are all equal and draw others in their place."
    )
    overlong: Overlong = Field(
        default=Overlong.NONE, description="For completions cut off: None, Penalty (reward 0) or Filter (dropped)."
    )

    @model_validator(mode="after")
    def _ranges(self) -> Algorithm:
        if self.importance_cap < 1:
            raise ValueError(f"importanceCap is {self.importance_cap}; below 1 it would cut on-policy samples too")
        if not 0 <= self.clip_low < 1:
            raise ValueError(f"clipLow is {self.clip_low}; it must be at least 0 and below 1")
        if self.clip_high < 0:
            raise ValueError(f"clipHigh is {self.clip_high}; it can't be negative")
        return self


class RLTrainer(Engine, Optimisation):
    """The trainer of an RLRun."""


class Actor(ApiModel):
    """The process that draws problems, samples groups and grades them."""

    concurrent_groups: int = Field(
        default=0, ge=0, le=65536, description="Groups in flight; 0 takes twice problemsPerStep."
    )
    resources: Resources = Field(default_factory=Resources, description="What the actor asks for.")


class RLRunSpec(RunSpec):
    """Actor, vLLM rollout servers and trainer, with weights updated in flight."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.sampling.maxTokens < self.rollout.maxModelLength",
                    "sampling.maxTokens must be below rollout.maxModelLength, which holds the prompt too",
                ),
                rule(
                    "self.trainer.sequenceLength >= self.rollout.maxModelLength",
                    "trainer.sequenceLength must be at least rollout.maxModelLength, so that every sample fits a row",
                ),
            ]
        }
    )

    model: ModelRef = Field(description="The model to start from.")
    dataset: DatasetRef = Field(description="Problems to learn from.")
    algorithm: Algorithm = Field(description="Objective and batch.")
    sampling: Sampling = Field(default_factory=Sampling, description="How rollouts are drawn.")
    rollout: Server = Field(default_factory=Server, description="The pool of vLLM servers.")
    grader: Grader = Field(description="How proofs are graded.")
    actor: Actor = Field(default_factory=Actor, description="The process between pool, grader and trainer.")
    trainer: RLTrainer = Field(default_factory=RLTrainer, description="Engine and optimizer.")
    checkpoint: CheckpointPolicy = Field(default_factory=CheckpointPolicy, description="When to save.")
    evaluations: list[Evaluation] = Field(
        default_factory=list,
        max_length=4,
        description="Evaluations of chosen checkpoints while the run goes on.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    mutable: ClassVar[tuple[str, ...]] = (*RunSpec.mutable, "rollout.replicas")

    @model_validator(mode="after")
    def _evaluations(self) -> RLRunSpec:
        check_evaluations(self.evaluations)
        return self

    @model_validator(mode="after")
    def _lengths(self) -> RLRunSpec:
        if self.sampling.max_tokens >= self.rollout.max_model_length:
            raise ValueError(
                f"sampling.maxTokens is {self.sampling.max_tokens}; it must be below rollout.maxModelLength "
                f"({self.rollout.max_model_length}), which holds the prompt too"
            )
        if self.sampling.top_p != 1:
            raise ValueError(
                f"sampling.topP is {self.sampling.top_p}; RL needs 1, since the trainer scores every token of the "
                "vocabulary and a truncated behaviour policy would bias the importance weights"
            )
        if self.trainer.sequence_length < self.rollout.max_model_length:
            raise ValueError(
                f"trainer.sequenceLength is {self.trainer.sequence_length}; it must be at least "
                f"rollout.maxModelLength ({self.rollout.max_model_length}), so that every sample fits a row"
            )
        return self
