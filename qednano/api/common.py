"""Types that the four kinds share. Every field is typed, bounded, documented and defaulted here.

Bounds are not only manners: the API server estimates the cost of each CEL rule from the largest value a
field may have, and refuses a CRD whose lists, maps or strings are unbounded.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

GROUP = "qednano.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LIMIT = 40  # so that "<name>-<role>-a<attempt>-<rank>" fits the 63 characters of a label
DECIMAL_PATTERN = r"^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


def rule(expression: str, message: str) -> JsonDict:
    """One CEL rule of a CRD (x-kubernetes-validations)."""
    return {"rule": expression, "message": message}


class ApiModel(BaseModel):
    """Base of all API types: camelCase outside, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, validate_by_name=True, extra="forbid", frozen=True
    )


def _decimal(value: Any) -> Any:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError(f'must be a decimal in quotes, such as "{value}" (the API has no floating-point numbers)')
    if len(value) > 32 or not re.fullmatch(DECIMAL_PATTERN, value):
        raise ValueError(f'is {value[:40]!r}; it must be a decimal in quotes, such as "0.8" or "1e-4"')
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError("is not a decimal number") from None


DecimalString = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    PlainSerializer(lambda value: f"{value:f}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": 32}),
]
"""A decimal number written as a string, since Kubernetes APIs have no floats."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=NAME_LIMIT)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^\S+$")]
ShortText = Annotated[str, StringConstraints(max_length=253)]
Quantity = Annotated[str, StringConstraints(max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Seed = Annotated[int, Field(ge=0, le=2147483647)]


def exactly_one(model: BaseModel, *fields: str) -> None:
    """Raise ValueError unless exactly one of the fields (by attribute name) is set."""
    given = [to_camel(name) for name in fields if getattr(model, name) is not None]
    if len(given) != 1:
        wanted = ", ".join(to_camel(name) for name in fields)
        got = "none is set" if not given else f"{' and '.join(given)} are set"
        raise ValueError(f"exactly one of {wanted} must be set, but {got}")


def exactly_one_rule(*fields: str) -> JsonDict:
    """The CEL twin of ``exactly_one``."""
    names = [to_camel(name) for name in fields]
    tests = ", ".join(f"has(self.{name})" for name in names)
    return rule(f"[{tests}].filter(x, x).size() == 1", f"exactly one of {', '.join(names)} must be set")


class Checkpoint(StrEnum):
    """Which weights of a run are meant."""

    INITIAL = "Initial"
    FINAL = "Final"
    BEST = "Best"


class RunReference(ApiModel):
    """Another run of the same namespace and which of its weights are meant."""

    name: Name = Field(description="Name of the run, in the same namespace.")
    checkpoint: Checkpoint = Field(
        default=Checkpoint.FINAL,
        description="Final is the run's artifact; Initial is the model it started from; Best is the step that its "
        "evaluation with best: true scored highest.",
    )
    step: int | None = Field(
        default=None, ge=1, le=1000000, description="The weights after this step, which the run kept for an evaluation."
    )

    @model_validator(mode="after")
    def _which(self) -> RunReference:
        if self.step is not None and self.checkpoint is not Checkpoint.FINAL:
            raise ValueError(f"step is {self.step} and checkpoint is {self.checkpoint}; leave one of them out")
        return self


class ModelRef(ApiModel):
    """A model: a folder or Hub repository by its uri, or the outcome of a run."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("uri", "sft_run", "rl_run")]}
    )

    uri: Uri | None = Field(
        default=None,
        description="A folder of Hugging Face files on the run's volume (/qed/…), or hf://owner/name@revision.",
    )
    sft_run: RunReference | None = Field(default=None, description="The model an SFTRun made.")
    rl_run: RunReference | None = Field(default=None, description="The model an RLRun made.")

    @model_validator(mode="after")
    def _one(self) -> ModelRef:
        exactly_one(self, "uri", "sft_run", "rl_run")
        return self


class DatasetSplit(ApiModel):
    """One split of a ProofDataset of the same namespace."""

    name: Name = Field(description="Name of the ProofDataset.")
    split: Name = Field(default="train", description="Which of its splits.")


class DatasetRef(ApiModel):
    """Rows of problems: a split of a ProofDataset, or a file."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("proof_dataset", "uri")]}
    )

    proof_dataset: DatasetSplit | None = Field(default=None, description="A split of a ProofDataset.")
    uri: Uri | None = Field(default=None, description="A .parquet or .jsonl file on the run's volume.")

    @model_validator(mode="after")
    def _one(self) -> DatasetRef:
        exactly_one(self, "proof_dataset", "uri")
        return self


class Resources(ApiModel):
    """What one pod of a role asks for. Limits equal requests for memory and GPUs."""

    cpu: Quantity = Field(default="1", description="CPU cores requested.")
    memory: Quantity = Field(default="2Gi", description="Memory requested and its limit.")
    gpus: int = Field(default=0, ge=0, le=16, description="GPUs (nvidia.com/gpu) for one pod.")


class Toleration(ApiModel):
    """A toleration of the run's pods, as in core/v1."""

    key: ShortText = Field(default="", description="Taint key; empty matches all keys with operator Exists.")
    operator: Annotated[str, StringConstraints(pattern="^(Exists|Equal)$", max_length=6)] = Field(
        default="Equal", description="Exists or Equal."
    )
    value: ShortText = Field(default="", description="Taint value, for operator Equal.")
    effect: Annotated[str, StringConstraints(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)?$", max_length=16)] = (
        Field(default="", description="Taint effect; empty matches all.")
    )


class Scheduling(ApiModel):
    """Where the run's pods may go."""

    node_selector: dict[ShortText, ShortText] = Field(
        default_factory=dict, max_length=16, description="Labels a node must have."
    )
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16, description="Taints the pods tolerate.")
    priority_class_name: ShortText = Field(default="", description="PriorityClass of the pods.")


class Storage(ApiModel):
    """The volume that the run's pods share."""

    claim_name: ShortText = Field(
        default="qednano",
        description="PersistentVolumeClaim (ReadWriteMany) mounted at /qed in every pod of the run.",
    )


class Images(ApiModel):
    """Images to use instead of the operator's defaults."""

    trainer: ShortText = Field(default="", description="Image of trainers (torch, DeepSpeed).")
    server: ShortText = Field(default="", description="Image of vLLM servers.")
    worker: ShortText = Field(default="", description="Image of data, actor and evaluation jobs.")


class Restart(ApiModel):
    """What happens when a process of the run fails. Bad configuration or data is never retried."""

    max_restarts: int = Field(default=3, ge=0, le=100, description="Failures after which the run fails.")
    backoff_seconds: int = Field(
        default=10, ge=0, le=3600, description="Wait before the first restart; doubles with each further one."
    )
    max_backoff_seconds: int = Field(default=300, ge=0, le=86400, description="The longest wait.")


class OnStall(StrEnum):
    """What happens to a run that has stopped moving."""

    REPORT = "Report"
    RESTART = "Restart"


class Limits(ApiModel):
    """How long a run may take, and how long it may stand still."""

    active_deadline_seconds: int = Field(
        default=0,
        ge=0,
        le=31536000,
        description="The run fails when it has been active for so long since its start or last resume; 0 is no limit.",
    )
    stall_seconds: int = Field(
        default=1800,
        ge=0,
        le=604800,
        description="A running run whose progress has not changed for so long counts as stalled; 0 never does.",
    )
    on_stall: OnStall = Field(
        default=OnStall.REPORT,
        description="Report sets the condition Progressing to False; Restart also starts the next attempt, counted.",
    )


class RunSpec(ApiModel):
    """Fields of every kind."""

    suspend: bool = Field(
        default=False,
        description="True saves a checkpoint, frees the run's pods and waits; false again continues from there.",
    )
    cancel: bool = Field(
        default=False, description="True ends the run for good: its pods save and end, and it fails as cancelled."
    )
    seed: Seed = Field(default=0, description="Seed of everything random in the run.")
    storage: Storage = Field(default_factory=Storage, description="Volume shared by the run's pods.")
    images: Images = Field(default_factory=Images, description="Images to use instead of the defaults.")
    restart: Restart = Field(default_factory=Restart, description="Restart policy.")
    scheduling: Scheduling = Field(default_factory=Scheduling, description="Node selection and priority.")

    limits: Limits = Field(default_factory=Limits, description="How long the run may take and stand still.")
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=31536000,
        description="The ended run is deleted after so long; what it made stays on the volume. Absent keeps it.",
    )

    mutable: ClassVar[tuple[str, ...]] = ("suspend", "cancel", "restart", "limits", "ttlSecondsAfterFinished")


class Sampling(ApiModel):
    """How completions are drawn."""

    temperature: DecimalString = Field(default=Decimal("1.0"), description="Sampling temperature, 0 to 2.")
    top_p: DecimalString = Field(default=Decimal("1.0"), description="Nucleus mass, above 0 to 1.")
    max_tokens: int = Field(default=512, ge=1, le=262144, description="Longest completion, in tokens.")

    @model_validator(mode="after")
    def _ranges(self) -> Sampling:
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}; it must be from 0 to 2")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"topP is {self.top_p}; it must be above 0 and at most 1")
        return self


class Server(ApiModel):
    """vLLM servers of one role."""

    replicas: int = Field(default=1, ge=1, le=256, description="How many servers.")
    max_model_length: int = Field(default=1024, ge=16, le=1048576, description="Prompt and completion, in tokens.")
    max_concurrent: int = Field(default=256, ge=1, le=4096, description="Sequences a server decodes at once.")
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of a server; no effect on GPUs.")
    tensor_parallel: int = Field(default=1, ge=1, le=16, description="GPUs that share each layer of the model.")
    pipeline_parallel: int = Field(default=1, ge=1, le=16, description="Groups of GPUs, each with some of the layers.")
    data_parallel: int = Field(default=1, ge=1, le=16, description="Copies of the model in one server.")
    resources: Resources = Field(
        default_factory=lambda: Resources(memory="6Gi"), description="What one server asks for."
    )
