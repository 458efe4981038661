"""References to other runs: what a run waits for, in a sentence, and what is pinned once all are ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qednano.api import TERMINAL
from qednano.api.common import RunSpec
from qednano.api.status import ResolvedInputStatus
from qednano.plan import Reference, literal_inputs, locate, references
from qednano.plan.evaluations import NAME_TAKEN, evaluation_name
from qednano.plan.unmet import field_path, unmet
from qednano_operator.decision import Object


@dataclass(frozen=True)
class Resolution:
    """``inputs`` when everything is ready; else why not, and whether that is for good.

    ``detail`` is what may be added to the message for people and moves with time.
    """

    inputs: tuple[ResolvedInputStatus, ...] = ()
    reason: str = ""
    message: str = ""
    detail: str = ""
    failed: bool = False

    @property
    def ready(self) -> bool:
        """Whether the run may start."""
        return not self.reason


def _progress(status: Mapping[str, Any]) -> str:
    progress = status.get("progress") or {}
    if not progress.get("total"):
        return ""
    tenths = 10 * int(progress.get("step") or 0) // int(progress["total"])  # finer would be a write for each step
    return f" ({tenths * 10} % done)"


def _resolve(reference: Reference, source: Object | None, namespace: str) -> ResolvedInputStatus | Resolution:
    what = f"{reference.kind} {reference.name}"
    if source is None or source["metadata"].get("deletionTimestamp"):
        state = "does not exist" if source is None else "is being deleted"
        return Resolution(
            reason="NotFound",
            message=f"{field_path(reference)} names {what}, which {state} in namespace {namespace}; waiting for it",
        )
    never = unmet(reference, source.get("spec") or {})
    if never:
        return Resolution(reason="DependencyUnfit", message=never, failed=True)
    status = source.get("status") or {}
    phase = status.get("phase") or "Pending"
    if reference.part.startswith("step/"):
        return _resolve_step(reference, status, phase)
    if phase == "Failed":
        why = status.get("message") or "no reason given"
        return Resolution(
            reason="DependencyFailed", message=f"{field_path(reference)} needs {what}, which failed: {why}", failed=True
        )
    artifact = status.get("artifact") or {}
    if phase != "Succeeded" or not artifact.get("uri"):
        return Resolution(
            reason="NotReady",
            message=f"{field_path(reference)} waits for {what}, which is {phase}",
            detail=_progress(status),
        )
    if reference.part == "best" and (waits := _choosing(reference, source.get("spec") or {}, status)):
        return waits
    return ResolvedInputStatus(
        field=reference.field,
        name=f"{reference.kind}/{reference.name}",
        uri=locate(reference, artifact["uri"]),
        digest="" if reference.is_checkpoint else artifact.get("digest") or "",
    )


def _choosing(reference: Reference, spec: Mapping[str, Any], status: Mapping[str, Any]) -> Resolution | None:
    """Why the best checkpoint is not known yet, or never will be; None when all its evaluations have ended.

    They go on after the training run has succeeded, and each may still change which step is the best.
    """
    what = f"{reference.kind} {reference.name}"
    chooser = next(item["name"] for item in spec["evaluations"] if item.get("best"))
    scoring = [
        item
        for item in status.get("evaluations") or []
        if item["name"] == evaluation_name(reference.name, chooser, int(item.get("step") or 0))
    ]
    open_ones = [item for item in scoring if item.get("phase") not in (*TERMINAL, NAME_TAKEN)]
    if open_ones or not scoring:
        late = f"EvalRun {open_ones[0]['name']}, which is {open_ones[0]['phase']}" if open_ones else "the first EvalRun"
        return Resolution(
            reason="NotReady",
            message=f"{field_path(reference)}.checkpoint is Best, which {what}'s evaluation {chooser} chooses; "
            f"it waits for {late}",
        )
    if not any(item.get("phase") == "Succeeded" for item in scoring):
        return Resolution(
            reason="DependencyFailed",
            message=f"{field_path(reference)}.checkpoint is Best, but no EvalRun of {what}'s evaluation {chooser} "
            "succeeded, so none was chosen; mend the evaluation or use Final",
            failed=True,
        )
    return None


def _resolve_step(reference: Reference, status: Mapping[str, Any], phase: str) -> ResolvedInputStatus | Resolution:
    """The weights after a step are there as soon as the run says so, while it goes on."""
    what, step = f"{reference.kind} {reference.name}", int(reference.part.removeprefix("step/"))
    if step in ((status.get("progress") or {}).get("exports") or []):
        return ResolvedInputStatus(
            field=reference.field,
            name=f"{reference.kind}/{reference.name}",
            uri=locate(reference, f"{status.get('runDir', '')}/artifact"),
        )
    if phase in TERMINAL:
        return Resolution(
            reason="DependencyUnfit",
            message=f"{field_path(reference)}.step is {step}, but {what}, which is {phase}, keeps no weights of that "
            "step; it keeps those that checkpoint.export or evaluations asked for",
            failed=True,
        )
    return Resolution(
        reason="NotReady",
        message=f"{field_path(reference)} waits for step {step} of {what}, which is {phase}",
        detail=_progress(status),
    )


def resolve(spec: RunSpec, namespace: str, runs: Mapping[tuple[str, str], Object]) -> Resolution:
    """Resolve every reference of ``spec``; what can never be met outweighs what is only not there yet."""
    inputs = [ResolvedInputStatus(field=name, uri=uri) for name, uri in literal_inputs(spec).items()]
    blocked: list[Resolution] = []
    for reference in references(spec):
        found = _resolve(reference, runs.get((reference.kind, reference.name)), namespace)
        if isinstance(found, Resolution):
            blocked.append(found)
        else:
            inputs.append(found)
    if not blocked:
        return Resolution(inputs=tuple(inputs))
    return next((item for item in blocked if item.failed), blocked[0])


_FIELDS = {"sftRun": "SFTRun", "rlRun": "RLRun", "proofDataset": "ProofDataset"}


def referenced(spec: Any) -> set[tuple[str, str]]:
    """(kind, name) of every run that a raw spec names, valid or not; for finding who waits for whom."""
    found: set[tuple[str, str]] = set()
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key in _FIELDS and isinstance(value, dict) and isinstance(value.get("name"), str):
                found.add((_FIELDS[key], value["name"]))
            elif key == "evalRun" and isinstance(value, str):
                found.add(("EvalRun", value))
            else:
                found |= referenced(value)
    elif isinstance(spec, list):
        for value in spec:
            found |= referenced(value)
    return found
