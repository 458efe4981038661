"""Types that the four kinds share. Every field is typed, bounded, documented and defaulted here."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from qednano.api.base import (
    API_VERSION,
    DECIMAL_PATTERN,
    GROUP,
    NAME_LIMIT,
    NAME_PATTERN,
    VERSION,
    ApiModel,
    DecimalString,
    Name,
    Quantity,
    Seed,
    ShortText,
    Uri,
    rule,
)
from qednano.api.scheduling import Scheduling
from qednano.api.secret import SecretKey


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


class Retention(StrEnum):
    """What becomes of a run's folder when the run is deleted."""

    KEEP = "Keep"
    DELETE = "Delete"


class Artifacts(ApiModel):
    """What becomes of what the run made."""

    retention: Retention = Field(
        default=Retention.KEEP,
        description="Keep leaves the run's folder on the volume when the run is deleted; Delete removes it too, with "
        "its checkpoints and samples, which other runs may refer to.",
    )


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
    profile: Annotated[str, StringConstraints(pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=NAME_LIMIT)] = (
        Field(
            default="",
            description="One of the administrator's profiles: images and scheduling for what the run leaves out.",
        )
    )
    seed: Seed = Field(default=0, description="Seed of everything random in the run.")
    storage: Storage = Field(default_factory=Storage, description="Volume shared by the run's pods.")
    artifacts: Artifacts = Field(default_factory=Artifacts, description="What becomes of what the run made.")
    images: Images = Field(default_factory=Images, description="Images to use instead of the defaults.")
    restart: Restart = Field(default_factory=Restart, description="Restart policy.")
    scheduling: Scheduling = Field(
        default_factory=Scheduling, description="Where pods go and which queue they wait in."
    )
    hub_token: SecretKey | None = Field(
        default=None,
        description="Secret with a Hugging Face token, for private or gated models and datasets: HF_TOKEN in the run's "
        "pods. On a laptop HF_TOKEN itself is used.",
    )
    limits: Limits = Field(default_factory=Limits, description="How long the run may take and stand still.")
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=31536000,
        description="The ended run is deleted after so long; what it made stays on the volume. Absent keeps it.",
    )

    mutable: ClassVar[tuple[str, ...]] = (
        "suspend",
        "cancel",
        "restart",
        "limits",
        "ttlSecondsAfterFinished",
        "artifacts",
    )
    correctable: ClassVar[dict[str, str]] = {"images": "ImageUnavailable"}
    """Fields that may also change while the condition Running has that reason: what is wrong can be put right."""

    @classmethod
    def mutable_while(cls, running_reason: str) -> tuple[str, ...]:
        """Fields that may change in a started run whose condition Running has this reason."""
        return (*cls.mutable, *(name for name, reason in cls.correctable.items() if reason == running_reason))


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


__all__ = [
    "API_VERSION",
    "DECIMAL_PATTERN",
    "GROUP",
    "NAME_LIMIT",
    "NAME_PATTERN",
    "VERSION",
    "ApiModel",
    "Checkpoint",
    "DatasetRef",
    "DatasetSplit",
    "DecimalString",
    "Images",
    "Limits",
    "ModelRef",
    "Name",
    "OnStall",
    "Quantity",
    "Resources",
    "Restart",
    "RunReference",
    "RunSpec",
    "Sampling",
    "Scheduling",
    "Seed",
    "Server",
    "ShortText",
    "Storage",
    "Uri",
    "exactly_one",
    "exactly_one_rule",
    "rule",
]
