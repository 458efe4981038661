"""Where a run's pods may go, what they are given there, and which queue they wait in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.base import ApiModel, Quantity, ShortText, rule

GPU_RESOURCE = "nvidia.com/gpu"
_RESOURCE_PATTERN = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$"

RESERVED_PREFIXES = ("QED_", "MASTER_", "PET_", "TORCHELASTIC_")
RESERVED_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
    *("POD_NAME", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "PYTHONUNBUFFERED", "HOME", "USER"),
    *("HF_HOME", "VLLM_CACHE_ROOT"),
    "HF_TOKEN",  # a secret has no place in a manifest: spec.hubToken names one
)
"""Environment variables that the operator or torchrun sets: overwriting one would break the run in obscure ways."""

_TAKEN = " || ".join(
    [*(f"self.name.startsWith('{prefix}')" for prefix in RESERVED_PREFIXES), f"self.name in {list(RESERVED_NAMES)}"]
)


def is_reserved(name: str) -> bool:
    """Whether an environment variable belongs to the operator or to torchrun."""
    return name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES)


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


class EnvVariable(ApiModel):
    """An environment variable of the run's pods, such as NCCL_SOCKET_IFNAME."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(f"!({_TAKEN})", "the variable is set by the operator or by torchrun; choose another name")
            ]
        }
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] = Field(
        description="Name; none that the operator or torchrun sets (QED_…, MASTER_…, RANK and their like)."
    )
    value: Annotated[str, StringConstraints(max_length=1024)] = Field(default="", description="Value.")

    @model_validator(mode="after")
    def _free(self) -> EnvVariable:
        if is_reserved(self.name):
            raise ValueError(f"{self.name} is set by the operator or by torchrun; choose another name")
        return self


class TopologyMode(StrEnum):
    """How binding the topology is."""

    REQUIRED = "Required"
    PREFERRED = "Preferred"


ResourceCounts = dict[ShortText, Annotated[int, Field(ge=1, le=1000)]]


def _check_resources(counts: ResourceCounts, gpu_resource: str = GPU_RESOURCE) -> None:
    for name in counts:
        if "/" not in name:
            raise ValueError(
                f"extraResources names {name}; it is for devices with a domain, such as rdma/hca. CPU, memory and GPUs "
                "are the resources of each role"
            )
        if name == gpu_resource:
            raise ValueError(f"extraResources names {name}; GPUs are resources.gpus of each role")


_RESOURCES_RULE = rule(
    f"self.extraResources.all(name, name.contains('/') && name != '{GPU_RESOURCE}')",
    "extraResources is for devices such as rdma/hca; CPU, memory and GPUs are the resources of each role",
)


class Placement(ApiModel):
    """Where the pods of one role go. A field that is set here goes before the run's field of that name."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_RESOURCES_RULE]})

    node_selector: dict[ShortText, ShortText] = Field(
        default_factory=dict, max_length=16, description="Labels a node must have, instead of the run's."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=16, description="Taints the role's pods tolerate, instead of the run's."
    )
    priority_class_name: ShortText = Field(default="", description="PriorityClass of the role's pods.")
    runtime_class_name: ShortText = Field(default="", description="RuntimeClass of the role's pods.")
    extra_resources: ResourceCounts = Field(
        default_factory=dict, max_length=8, description="Devices of each of the role's pods, instead of the run's."
    )

    @model_validator(mode="after")
    def _devices(self) -> Placement:
        _check_resources(self.extra_resources)
        return self


class Scheduling(ApiModel):
    """Where the run's pods may go, what they are given there, and which queue they wait in."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                _RESOURCES_RULE,
                rule(
                    "!self.extraResources.exists(name, name == self.gpuResource)",
                    "extraResources names gpuResource; GPUs are resources.gpus of each role",
                ),
            ]
        }
    )

    queue_name: ShortText = Field(
        default="",
        description="LocalQueue of Kueue, in the same namespace: no pod is made before it admits the whole run.",
    )
    node_selector: dict[ShortText, ShortText] = Field(
        default_factory=dict, max_length=16, description="Labels a node must have."
    )
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16, description="Taints the pods tolerate.")
    priority_class_name: ShortText = Field(default="", description="PriorityClass of the pods.")
    runtime_class_name: ShortText = Field(default="", description="RuntimeClass of the pods.")
    topology_key: ShortText = Field(
        default="",
        description="Node label, such as topology.kubernetes.io/zone: the pods of a gang share one value of it.",
    )
    topology_mode: TopologyMode = Field(
        default=TopologyMode.REQUIRED,
        description="Required leaves a gang pending that does not fit in one domain; Preferred lets it span several.",
    )
    spread_key: ShortText = Field(
        default="",
        description="Node label, such as kubernetes.io/hostname: servers of a role spread over its values where "
        "there is room.",
    )
    shared_memory: Quantity | None = Field(
        default=None,
        description="Size of /dev/shm, part of the pod's memory. Absent leaves it to the node: up to the memory limit.",
    )
    env: list[EnvVariable] = Field(
        default_factory=list,
        max_length=32,
        description="Further environment variables of every pod, for NCCL, RDMA and their like.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    gpu_resource: Annotated[str, StringConstraints(pattern=_RESOURCE_PATTERN, max_length=253)] = Field(
        default=GPU_RESOURCE, description="Resource that resources.gpus counts, such as nvidia.com/mig-3g.40gb."
    )
    extra_resources: ResourceCounts = Field(
        default_factory=dict,
        max_length=8,
        description="Devices of each pod that has GPUs, such as rdma/hca: 1. A placement may give them to any role.",
    )
    placement: dict[ShortText, Placement] = Field(
        default_factory=dict,
        max_length=12,
        description="Role to its own placement: rollout servers on spot nodes, say, and the trainer on others.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Scheduling:
        _check_resources(self.extra_resources, self.gpu_resource)
        names = [item.name for item in self.env]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"env names {name} twice; leave one out")
        return self
