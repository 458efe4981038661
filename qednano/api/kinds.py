"""The four kinds: names, specs, and how kubectl prints them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from qednano.api.common import NAME_LIMIT, NAME_PATTERN, ApiModel, RunSpec
from qednano.api.evalrun import EvalRunSpec
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.api.rlrun import RLRunSpec
from qednano.api.sftrun import SFTRunSpec
from qednano.api.status import RunStatus


class Metadata(ApiModel):
    """The part of the standard object metadata that a manifest may set."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=NAME_LIMIT)]
    namespace: str = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""


class Run(ApiModel):
    """An object of one of the four kinds."""

    plural: ClassVar[str]
    singular: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[tuple[str, str, str, int], ...]]
    scale: ClassVar[dict[str, str] | None] = None

    api_version: Literal["qednano.dev/v1alpha1"] = "qednano.dev/v1alpha1"
    kind: str
    metadata: Metadata
    spec: RunSpec
    status: RunStatus | None = None

    @classmethod
    def spec_type(cls) -> type[RunSpec]:
        """The pydantic type of ``spec``."""
        annotation: Any = cls.model_fields["spec"].annotation
        return annotation  # type: ignore[no-any-return]


_PHASE = ("Phase", "string", ".status.phase", 0)
_STEP = ("Step", "integer", ".status.progress.step", 0)
_TOTAL = ("Of", "integer", ".status.progress.total", 0)
_ETA = ("ETA(s)", "integer", ".status.progress.etaSeconds", 0)
_TAIL = (
    ("Restarts", "integer", ".status.countedRestarts", 1),
    ("Goodput", "string", ".status.usage.goodput", 1),
    ("GPU-Cost", "string", ".status.usage.gpuCost", 1),
    ("ETA(s)", "integer", ".status.progress.etaSeconds", 1),
    ("Message", "string", ".status.message", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)


class ProofDataset(Run):
    """One immutable set of problems with a digest."""

    plural = "proofdatasets"
    singular = "proofdataset"
    short_names = ("pds",)
    columns = (
        _PHASE,
        ("Stage", "string", ".status.progress.stage", 0),
        ("In", "integer", ".status.progress.rowsIn", 0),
        ("Out", "integer", ".status.progress.rowsOut", 0),
        ("Done", "integer", ".status.progress.step", 1),
        ("Of", "integer", ".status.progress.total", 1),
        ("Cost", "string", ".status.usage.cost", 0),
        _ETA,
        ("Digest", "string", ".status.artifact.digest", 1),
        *(column for column in _TAIL if column[0] != _ETA[0]),
    )
    kind: Literal["ProofDataset"] = "ProofDataset"
    spec: ProofDatasetSpec


class SFTRun(Run):
    """One supervised fine-tuning of one model on one dataset."""

    plural = "sftruns"
    singular = "sftrun"
    short_names = ("sft",)
    columns = (
        _PHASE,
        _STEP,
        _TOTAL,
        ("Loss", "string", ".status.progress.headline", 0),
        ("GPUs", "integer", ".status.gpus", 0),
        *_TAIL,
    )
    kind: Literal["SFTRun"] = "SFTRun"
    spec: SFTRunSpec


class RLRun(Run):
    """One RL run of one model on one dataset."""

    plural = "rlruns"
    singular = "rlrun"
    short_names = ("rlr",)
    columns = (
        _PHASE,
        _STEP,
        _TOTAL,
        ("Reward", "string", ".status.progress.headline", 0),
        ("Staleness", "string", ".status.progress.staleness", 0),
        ("Rollouts", "integer", ".status.rolloutReplicas", 1),
        ("GPUs", "integer", ".status.gpus", 0),
        *_TAIL,
    )
    scale = {
        "specReplicasPath": ".spec.rollout.replicas",
        "statusReplicasPath": ".status.rolloutReplicas",
        "labelSelectorPath": ".status.selector",
    }
    kind: Literal["RLRun"] = "RLRun"
    spec: RLRunSpec


class EvalRun(Run):
    """One evaluation of one model on one benchmark."""

    plural = "evalruns"
    singular = "evalrun"
    short_names = ("evr",)
    columns = (
        _PHASE,
        ("Stage", "string", ".status.progress.stage", 1),
        ("Done", "integer", ".status.progress.step", 0),
        _TOTAL,
        ("Score", "string", ".status.progress.headline", 0),
        ("GPUs", "integer", ".status.gpus", 0),
        *_TAIL,
    )
    kind: Literal["EvalRun"] = "EvalRun"
    spec: EvalRunSpec


KINDS: dict[str, type[Run]] = {kind.__name__: kind for kind in (ProofDataset, SFTRun, RLRun, EvalRun)}
