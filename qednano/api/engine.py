"""What SFTRun and RLRun share: the DeepSpeed engine, AdamW and its schedule, adapters, checkpoints."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import ApiModel, DecimalString, Resources, rule


class Precision(StrEnum):
    """Number format of training."""

    FP32 = "fp32"
    BF16 = "bf16"


class Schedule(StrEnum):
    """Course of the learning rate after warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class ActivationCheckpointing(StrEnum):
    """What is kept of the forward pass for the backward pass."""

    NONE = "None"
    FULL = "Full"
    OFFLOAD = "Offload"


class Attention(StrEnum):
    """How attention keeps the documents of a row apart."""

    AUTO = "Auto"
    SEGMENTS = "Segments"
    FLASH = "Flash"
    FLEX = "Flex"
    BLOCK_MASK = "BlockMask"


class Optimisation(ApiModel):
    """AdamW and its schedule."""

    learning_rate: DecimalString = Field(default=Decimal("1e-5"), description="Peak learning rate.")
    schedule: Schedule = Field(default=Schedule.COSINE, description="Course after warm-up: cosine, linear or constant.")
    warmup_steps: int = Field(default=0, ge=0, le=1000000, description="Steps of linear warm-up.")
    weight_decay: DecimalString = Field(default=Decimal("0.01"), description="Decoupled weight decay of matrices.")
    grad_clip: DecimalString = Field(default=Decimal("1.0"), description="Largest global gradient norm.")
    beta1: DecimalString = Field(default=Decimal("0.9"), description="AdamW's first moment decay.")
    beta2: DecimalString = Field(default=Decimal("0.98"), description="AdamW's second moment decay.")

    @model_validator(mode="after")
    def _ranges(self) -> Optimisation:
        if self.learning_rate <= 0:
            raise ValueError(f"learningRate is {self.learning_rate}; it must be above 0")
        if self.grad_clip <= 0:
            raise ValueError(f"gradClip is {self.grad_clip}; it must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.weight_decay < 0:
            raise ValueError(f"weightDecay is {self.weight_decay}; it can't be negative")
        return self


ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=63)]


class Lora(ApiModel):
    """Low-rank adapters (arXiv 2106.09685): only they are trained; every model written has them merged in."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of each adapter.")
    alpha: int = Field(default=32, ge=1, le=4096, description="Adapters are scaled by alpha / rank.")
    dropout: DecimalString = Field(default=Decimal("0"), description="Dropout before an adapter, 0 to below 1.")
    targets: list[ModuleName] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        max_length=32,
        description="Names of the linear layers that get one.",
    )

    @model_validator(mode="after")
    def _ranges(self) -> Lora:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        return self


SHARED_ROWS = rule(
    "(self.nodes * self.processes) % self.sequenceParallel == 0",
    "nodes times processes must be a multiple of sequenceParallel",
)


class Engine(ApiModel):
    """Processes and memory layout of a DeepSpeed trainer."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [SHARED_ROWS]})

    nodes: int = Field(default=1, ge=1, le=64, description="Pods of the trainer, started and restarted as one gang.")
    processes: int = Field(default=1, ge=1, le=16, description="Processes in each pod: one a GPU.")
    threads: int = Field(default=2, ge=1, le=256, description="CPU threads of a process; no effect on GPUs.")
    zero_stage: int = Field(default=0, ge=0, le=3, description="DeepSpeed ZeRO stage.")
    precision: Precision = Field(default=Precision.BF16, description="bf16, or fp32 (the one for CPUs).")
    sequence_length: int = Field(default=4096, ge=16, le=1048576, description="Longest row, in tokens.")
    micro_batch_tokens: int = Field(
        default=8192,
        ge=16,
        le=16777216,
        description="Tokens that go through the model at once: per process, or per sequenceParallel processes.",
    )
    attention: Attention = Field(
        default=Attention.AUTO,
        description="Segments (batches of documents of like length), Flash (FlashAttention's variable-length kernel), "
        "Flex (block-sparse mask), BlockMask (dense mask, for checks), or Auto: Flash where it is installed, else "
        "Segments.",
    )
    activation_checkpointing: ActivationCheckpointing = Field(
        default=ActivationCheckpointing.NONE,
        description="None keeps all activations; Full keeps each layer's input and computes the rest again in the "
        "backward pass; Offload also moves those inputs to CPU memory.",
    )
    sequence_parallel: int = Field(
        default=1, ge=1, le=64, description="Processes that share each row (DeepSpeed-Ulysses)."
    )
    lora: Lora | None = Field(default=None, description="Train low-rank adapters instead of all weights.")
    max_skipped_steps: int = Field(
        default=5,
        ge=0,
        le=10000,
        description="Steps in a row that may be skipped as loss or gradients were not finite; one more ends the run.",
    )
    resources: Resources = Field(default_factory=lambda: Resources(memory="4Gi"), description="For one pod.")

    @model_validator(mode="after")
    def _divides(self) -> Engine:
        if (self.nodes * self.processes) % self.sequence_parallel:
            raise ValueError(
                f"sequenceParallel is {self.sequence_parallel}; nodes times processes "
                f"({self.nodes} x {self.processes}) must be a multiple of it"
            )
        return self


class CheckpointPolicy(ApiModel):
    """When the trainer saves and what it keeps."""

    every_steps: int = Field(default=50, ge=1, le=1000000, description="Steps between checkpoints.")
    keep_last: int = Field(default=2, ge=1, le=100, description="Newest checkpoints kept.")
    keep_best: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Checkpoints kept beside them for their score: lowest evaluation loss (SFTRun), highest mean "
        "reward (RLRun).",
    )
    export: bool = Field(
        default=False,
        description="Also write each checkpoint as a model folder, exports/step-000050/model, which an EvalRun can "
        "evaluate; it goes when its checkpoint goes.",
    )
