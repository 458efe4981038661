"""The status as it is stored: pruned of what is empty, compared, and patched only where it differs."""

from __future__ import annotations

from typing import Any

from qednano.api import RunStatus
from qednano_operator.decision import Object

# What is only counted while a run goes on: it may wait, and goes into the next write
_QUIET = ("progress", "usage", "message", "inputs", "roles", "rolloutReplicas", "selector", "gpus")
_QUIET_CONDITION = "Scheduled"


def _prune(value: Any) -> Any:
    if isinstance(value, dict):
        pruned = {key: _prune(item) for key, item in value.items()}
        return {key: item for key, item in pruned.items() if item not in (None, "", [], {})}
    if isinstance(value, list):
        return [_prune(item) for item in value]
    return value


def stored(status: RunStatus) -> Object:
    """The status as it goes into the object."""
    found: Object = _prune(status.model_dump(mode="json", by_alias=True))
    return found


def difference(old: Object, new: Object) -> Object:
    """The merge patch (RFC 7396) that turns one into the other."""
    patch: Object = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = difference(before, value)
            if inner:
                patch[key] = inner
        elif before != value:
            patch[key] = value
    return patch


def is_urgent(patch: Object, old: Object) -> bool:
    """Whether a patch of ``old`` moves the run, or only says how far it is."""
    if any(key not in (*_QUIET, "conditions") for key in patch):
        return True
    return "conditions" in patch and _moving(patch["conditions"]) != _moving(old.get("conditions"))


def _moving(conditions: Any) -> list[Any]:
    return [condition for condition in conditions or () if condition["type"] != _QUIET_CONDITION]
