"""Status of a run, the same for all kinds: what `kubectl get` shows and machines wait for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from qednano.api.common import ApiModel, DecimalString, Images

Text = Annotated[str, StringConstraints(max_length=1024)]
Label = Annotated[str, StringConstraints(max_length=253)]
Time = Annotated[str, StringConstraints(max_length=32)]


class Phase(StrEnum):
    """Where a run is, for people. Derived from the conditions."""

    PENDING = "Pending"
    WAITING = "Waiting"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETING = "Completing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


TERMINAL = (Phase.SUCCEEDED, Phase.FAILED)

HEADLINES = {"ProofDataset": "", "SFTRun": "loss", "RLRun": "reward", "EvalRun": "score"}
"""Each kind and the metric that its printer column shows. An RL run's reward is the actor's: of all groups drawn."""


class ConditionType(StrEnum):
    """What machines wait for."""

    ACCEPTED = "Accepted"
    DEPENDENCIES_READY = "DependenciesReady"
    QUOTA_RESERVED = "QuotaReserved"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    PROGRESSING = "Progressing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Condition(ApiModel):
    """A standard Kubernetes condition."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, StringConstraints(max_length=128)]
    message: Text = ""
    observed_generation: int = 0
    last_transition_time: Time


class Headline(ApiModel):
    """One number of a run, by name."""

    name: Label
    value: DecimalString


class Progress(ApiModel):
    """How far the run is."""

    stage: Label = ""
    step: int = 0
    total: int | None = None
    unit: Label = "step"
    rate: Label = Field(default="", description="Units a second.")
    eta_seconds: int | None = None
    message: Text = ""
    metrics: list[Headline] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    headline: Label = Field(default="", description="The number to show: reward, loss or score.")
    staleness: Label = Field(default="", description="Mean staleness of an RL run, in optimizer steps.")
    rows_in: int | None = Field(default=None, description="Rows that the sources of a ProofDataset gave.")
    rows_out: int | None = Field(default=None, description="Rows that its last finished stage let through.")
    paused: Text = Field(default="", description="Why the run waits by its own decision.")
    exports: list[int] = Field(
        default_factory=list, max_length=64, description="Steps whose weights can be evaluated, the newest 64."
    )
    updated: Time = ""
    changed: Time = Field(default="", description="When the progress last differed from what it was before.")


class RoleStatus(ApiModel):
    """Processes of one role."""

    name: Label
    desired: int = 0
    ready: int = 0
    restarts: int = 0
    attempt: int = Field(default=0, description="The attempt that the role's pods belong to.")


class Attempt(ApiModel):
    """Why an attempt ended."""

    number: int
    reason: Label = ""
    message: Text = ""
    role: Label = ""
    exit_code: int | None = None
    counted: bool = True
    ended: Time = ""


class Usage(ApiModel):
    """What the run has used."""

    gpu_seconds: int = Field(default=0, description="GPUs held, times seconds.")
    starting_gpu_seconds: int = Field(default=0, description="Of these, those in which not all pods ran.")
    lost_gpu_seconds: int = Field(
        default=0, description="Of these, those since the last checkpoint at each failure of the trainer."
    )
    unsaved_gpu_seconds: int = Field(
        default=0, description="Of these, those since the last checkpoint: lost if the trainer failed now."
    )
    checkpointed: Time = Field(default="", description="When the last checkpoint was complete.")
    goodput: Label = Field(default="", description="1 - (lostGpuSeconds + startingGpuSeconds) / gpuSeconds.")
    gpu_price: Label = Field(default="", description="Price of a GPU-hour when the run started.")
    gpu_cost: Label = Field(default="", description="gpuSeconds at that price.")
    prompt_tokens: int = Field(default=0, description="Tokens that language models were given.")
    completion_tokens: int = Field(default=0, description="Tokens that they gave.")
    cost: Label = Field(default="", description="Money spent on endpoints with a known price.")
    accrued_until: Time = Field(default="", description="Up to when the use is counted.")


class EvaluationStatus(ApiModel):
    """One EvalRun of a checkpoint of this run."""

    name: Label
    step: int = 0
    phase: Label = ""
    score: Label = ""


class ResolvedInputStatus(ApiModel):
    """A reference as it was resolved when the run started; it is not looked up again."""

    field: Label
    name: Label = ""
    uri: Text = ""
    digest: Label = ""


class ArtifactStatus(ApiModel):
    """What the run made."""

    uri: Text
    digest: Label = ""
    manifest: Text = ""


class ProfileStatus(ApiModel):
    """The administrator's profile as the run took it; a later change of the profile does not touch the run."""

    name: Label
    digest: Label = Field(default="", description="Digest of images, scheduling and price as run and profile merged.")


class RunStatus(ApiModel):
    """Status of a run; always well under 16 KiB."""

    phase: Phase | None = None
    phase_since: Time = Field(default="", description="When the run entered this phase.")
    message: Text = ""
    observed_generation: int = 0
    attempt: int = 0
    counted_restarts: int = 0
    retry_after: Time = ""
    start_time: Time = ""
    completion_time: Time = ""
    run_dir: Text = ""
    profile: ProfileStatus | None = None
    gpus: int = Field(default=0, description="GPUs the run holds now.")
    rollout_replicas: int = Field(default=0, description="Rollout servers that exist (scale subresource).")
    selector: Text = Field(default="", description="Label selector of the rollout pods (scale subresource).")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    progress: Progress | None = None
    roles: list[RoleStatus] = Field(
        default_factory=list,
        max_length=12,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    attempts: list[Attempt] = Field(default_factory=list, max_length=10)
    usage: Usage | None = None
    evaluations: list[EvaluationStatus] = Field(
        default_factory=list,
        max_length=64,
        description="EvalRuns of this run's checkpoints, by step.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    inputs: list[ResolvedInputStatus] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["field"]},
    )
    artifact: ArtifactStatus | None = None
    images: Images | None = Field(
        default=None, description="Images that were named after the start, while the run waited for a missing one."
    )
