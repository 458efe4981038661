"""The run being reconciled, read from its object: identity, validated spec, status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from qednano.api import KINDS, RunStatus
from qednano.api.common import RunSpec
from qednano.api.load import explain
from qednano.plan import misplaced
from qednano_operator.decision import Object
from qednano_operator.profiles import Chosen


class StatusUnreadable(Exception):
    """A status this operator can't read is never overwritten: it may be a newer operator's."""


@dataclass(frozen=True)
class Assignment:
    """Where the queue that admitted the run puts the pods of one role, beside what the run wishes."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Object, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """One run. ``spec`` is what it runs with: for a started run the configuration it was started with, merged with
    its profile. ``written`` is the same before the merge.
    """

    kind: str
    name: str
    namespace: str
    uid: str
    generation: int
    spec: RunSpec
    written: RunSpec
    chosen: Chosen | None
    status: RunStatus
    now: datetime
    assigned: Mapping[str, Assignment] = field(default_factory=dict)  # role to where it was admitted

    @property
    def run_dir(self) -> str:
        """The run's folder on the shared volume."""
        return f"/qed/{self.namespace}/{self.kind.lower()}/{self.name}-{self.uid[:8]}"

    def with_status(self, status: RunStatus) -> Subject:
        """The same run with another status."""
        return replace(self, status=status)


def read_status(run: Object) -> RunStatus:
    """The status of a run's object, empty when it has none yet. Raises StatusUnreadable."""
    try:
        return RunStatus.model_validate(run.get("status") or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        meta = run["metadata"]
        raise StatusUnreadable(
            f"status.{where} of {run['kind']} {meta['namespace']}/{meta['name']} can't be read ({first['msg']}); "
            "was it written by a newer operator? Upgrade this one"
        ) from None


def read_spec(kind: str, name: str, spec: Any) -> RunSpec | str:
    """The validated spec, or a sentence that says what is wrong with it."""
    run_type = KINDS[kind]
    value = {"apiVersion": "qednano.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    mistakes = explain(run_type, value)
    if mistakes:
        return "; ".join(f"{'.'.join(str(part) for part in path)}: {text}" for path, text in mistakes[:5])
    found = run_type.spec_type().model_validate(spec)
    return misplaced(found) or found


def prepare() -> None:
    """Build the models of all kinds now: else the first run of each kind would wait for them."""
    for kind in KINDS:
        read_spec(kind, "first", {})
        KINDS[kind].spec_type().model_rebuild()
    RunStatus.model_rebuild()


def plain(spec: RunSpec) -> dict[str, Any]:
    """A spec with every default filled in, as it stands in YAML."""
    return spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "spec") -> Iterator[str]:
    """Dotted paths at which two plain specs differ."""
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from changed_fields(old, new, f"{path}.{key}")
        elif old != new:
            yield f"{path}.{key}"


def overlay(started: dict[str, Any], current: dict[str, Any], mutable: tuple[str, ...]) -> dict[str, Any]:
    """The configuration a run was started with, with the fields that may change taken from its spec of now."""
    result = dict(started)
    for path in mutable:
        head, _, tail = path.partition(".")
        if tail:
            inner_now = current.get(head)
            if isinstance(inner_now, dict) and isinstance(result.get(head), dict):
                result[head] = overlay(result[head], inner_now, (tail,))
        elif head in current:
            result[head] = current[head]
        else:
            result.pop(head, None)
    return result


def ignored_fields(started: dict[str, Any], current: dict[str, Any], mutable: tuple[str, ...]) -> list[str]:
    """Fields whose change after the start has no effect."""
    return list(changed_fields(overlay(started, current, mutable), current))
