"""A started run's inputs: what they were, and what became of them. It goes on with what it has, and says which it can't
look up any more."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qednano.api import ConditionType, RunStatus
from qednano.plan import references
from qednano.plan.unmet import field_path
from qednano_operator.conditions import put
from qednano_operator.decision import World
from qednano_operator.subject import Subject

LOST = "InputsDeleted"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def pinned(status: RunStatus, told: Mapping[str, str]) -> RunStatus:
    """The status with the digests that the run's processes tell (field to digest), of inputs that have none yet."""
    inputs = [
        item.model_copy(update={"digest": digest})
        if not item.digest and _DIGEST.fullmatch(digest := told.get(item.field, ""))
        else item
        for item in status.inputs
    ]
    return status if inputs == status.inputs else status.model_copy(update={"inputs": inputs})


def told(subject: Subject, world: World, status: RunStatus) -> RunStatus:
    """The status, whose condition DependenciesReady names inputs that were deleted or made anew after the start."""
    pinned = {item.field: item for item in status.inputs}
    lost = []
    for reference in references(subject.spec):
        before = pinned.get(reference.field)
        if before is None or before.name != f"{reference.kind}/{reference.name}":
            continue
        source = world.runs.get((reference.kind, reference.name))
        now = ((source or {}).get("status") or {}).get("artifact") or {}
        if source is None or source["metadata"].get("deletionTimestamp"):
            lost.append(f"{reference.kind} {reference.name} ({field_path(reference)}) was deleted")
        elif reference.is_checkpoint:
            continue
        elif before.digest and now.get("digest") and now["digest"] != before.digest:
            lost.append(f"{reference.kind} {reference.name} ({field_path(reference)}) was made anew, as another")
    reason = LOST if lost else "Resolved"
    said = "; ".join(dict.fromkeys(lost))
    text = f"{said}; the run keeps to what status.inputs names, which must stay on the volume" if lost else ""
    return put(status, ConditionType.DEPENDENCIES_READY, True, reason, text, subject.generation, subject.now)
