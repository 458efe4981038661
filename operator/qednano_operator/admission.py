"""The answer to one AdmissionReview: the rules of ``qednano validate``, and what may not change after the start. Pure.

There is nothing to default here: every default is in the CRDs' schemas, where the API server fills it in itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qednano.api import KINDS, ConditionType
from qednano.api.common import RunSpec
from qednano.api.profile import Profile
from qednano.plan import references, unknown_profile
from qednano.plan.unmet import field_path
from qednano_operator.decision import Object
from qednano_operator.subject import ignored_fields, overlay, plain, read_spec

_SHOWN = 80  # characters of a value in a message
_TOLD = 5  # mistakes in a message


class NotAReview(ValueError):
    """The body is no AdmissionReview of ours."""


def answer(review: Any, profiles: Mapping[str, Profile]) -> Object:
    """The AdmissionReview to send back. Raises NotAReview."""
    try:
        request = review["request"]
        uid, run, before = str(request["uid"]), request["object"], request.get("oldObject")
        kind = str(run["kind"])
        mistakes, warnings = judge(run, before, profiles) if kind in KINDS else ([f"{kind} is none of ours"], [])
    except (KeyError, TypeError, AttributeError) as error:
        raise NotAReview(f"not an AdmissionReview of a run: {type(error).__name__} {error}") from None
    response: Object = {"uid": uid, "allowed": not mistakes}
    if mistakes:
        text = f"{kind} {_name(run)}: {'; '.join(mistakes[:_TOLD])}"
        response["status"] = {"code": 422, "reason": "Invalid", "message": text}
    if warnings:
        response["warnings"] = warnings
    return {"apiVersion": review.get("apiVersion", "admission.k8s.io/v1"), "kind": "AdmissionReview"} | {
        "response": response
    }


def _name(run: Object) -> str:
    return str(run["metadata"].get("name") or run["metadata"].get("generateName", "x") + "x")


def judge(run: Object, before: Object | None, profiles: Mapping[str, Profile]) -> tuple[list[str], list[str]]:
    """What is wrong with the run, and what is only worth a warning. ``before`` is None for a new run."""
    if run["metadata"].get("deletionTimestamp") or (before is not None and run.get("spec") == before.get("spec")):
        return [], []  # its end, and changes of metadata, are nobody's business here
    kind, name = run["kind"], _name(run)
    spec = read_spec(kind, name, run.get("spec"))
    if isinstance(spec, str):
        return [spec], []
    mistakes = [
        f"{field_path(item)} refers to the run itself; name another"
        for item in references(spec)
        if (item.kind, item.name) == (kind, name)
    ]
    if before is not None and (before.get("status") or {}).get("startTime"):
        old = read_spec(kind, name, before.get("spec"))
        mistakes += _changes(old, spec, _running_reason(before)) if isinstance(old, RunSpec) else []
    warning = unknown_profile(spec.profile, profiles)
    return mistakes, [warning] if warning else []


def _running_reason(run: Object) -> str:
    conditions = (run.get("status") or {}).get("conditions") or []
    return next((str(item.get("reason")) for item in conditions if item.get("type") == ConditionType.RUNNING), "")


def _changes(before: RunSpec, after: RunSpec, running_reason: str) -> Iterator[str]:
    """A sentence for each field that a started run keeps, and that was changed."""
    mutable = type(after).mutable_while(running_reason)
    old, new = plain(before), plain(after)
    allowed = ", ".join(f"spec.{name}" for name in mutable)
    for path in ignored_fields(old, new, mutable):
        yield (
            f"{path} can't change from {_shown(overlay(old, new, mutable), path)} to {_shown(new, path)} once the run "
            f"has started (only {allowed} can); make a run with another name"
        )


def _shown(spec: Mapping[str, Any], path: str) -> str:
    value: Any = spec
    for part in path.split(".")[1:]:
        value = value.get(part) if isinstance(value, Mapping) else None
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
