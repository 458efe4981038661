"""Where the pods of one role go: the run's wishes, with those of the role before them."""

from __future__ import annotations

from qednano.api.common import RunSpec
from qednano.api.scheduling import Placement
from qednano.plan.roles import Role, roles


def placement_of(spec: RunSpec, role: Role) -> Placement:
    """The role's placement: each field is its own where it is set, else the run's.

    The run's devices go to roles with GPUs only.
    """
    wish, own = spec.scheduling, spec.scheduling.placement.get(role.name, Placement())
    return Placement(
        node_selector=own.node_selector or wish.node_selector,
        tolerations=own.tolerations or wish.tolerations,
        priority_class_name=own.priority_class_name or wish.priority_class_name,
        runtime_class_name=own.runtime_class_name or wish.runtime_class_name,
        extra_resources=own.extra_resources or (wish.extra_resources if role.resources.gpus else {}),
    )


def misplaced(spec: RunSpec) -> str:
    """Why the placement can't be meant, as a sentence; empty when it can."""
    known = [role.name for role in roles(spec)]
    for name in spec.scheduling.placement:
        if name not in known:
            return f"spec.scheduling.placement names role {name}, but the run's roles are {', '.join(known)}"
    return ""
