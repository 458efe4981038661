"""References that can never be met, whatever the run they name comes to: told before anything starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qednano.plan.references import Reference

_FIELDS = {"SFTRun": "sftRun", "RLRun": "rlRun", "ProofDataset": "proofDataset"}


def field_path(reference: Reference) -> str:
    """The field as it stands in the manifest: ``spec.baselines[0].model.sftRun``."""
    field = _FIELDS[reference.kind]
    if reference.field.startswith("served/"):
        return f"the model of role {reference.field.removeprefix('served/')} ({field})"
    path = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in reference.field.split("/"))
    return f"spec{path}{'.model' if path.endswith(']') else ''}.{field}"


def unmet(reference: Reference, spec: Mapping[str, Any]) -> str:
    """Why a run with ``spec`` (as it stands in YAML) will never have the part; empty when it may."""
    where, what = field_path(reference), f"{reference.kind} {reference.name}"
    if reference.part == "initial" and "init" not in (spec.get("model") or {}):
        return (
            f"{where}.checkpoint is Initial, but {what} did not start from a new model; use Final, or name the model "
            "it started from"
        )
    if reference.part == "best" and not any(item.get("best") for item in spec.get("evaluations") or []):
        return (
            f"{where}.checkpoint is Best, but none of {what}'s evaluations chooses one; set best: true on one, "
            "or use Final"
        )
    if reference.part.startswith("split/"):
        wanted = reference.part.removeprefix("split/")
        names = [split.get("name") for split in spec.get("splits") or []]
        if wanted not in names:
            return f"{where}.split is {wanted}, but {what} has only {', '.join(map(str, names))}"
    return ""
