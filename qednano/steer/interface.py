"""What a place of runs can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from qednano.api.status import TERMINAL, RunStatus
from qednano.errors import UsageError


@dataclass(frozen=True)
class Listed:
    """One run as a place shows it. ``where`` is its folder, or its namespace on a cluster."""

    kind: str
    namespace: str
    name: str
    status: RunStatus | None
    where: str

    @property
    def label(self) -> str:
        """Kind/name, with the namespace where it is not the default one."""
        place = "" if self.namespace == "default" else f"{self.namespace}/"
        return f"{place}{self.kind}/{self.name}"

    def as_json(self) -> dict[str, Any]:
        """The run with its status, for programs."""
        status = self.status.model_dump(mode="json", by_alias=True, exclude_none=True) if self.status else {}
        return {"run": self.label, "folder" if "/" in self.where else "namespace": self.where, **status}

    @property
    def phase(self) -> str:
        """Where the run is; Pending before anyone has looked at it."""
        return self.status.phase.value if self.status and self.status.phase else "Pending"

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return self.status is not None and self.status.phase in TERMINAL


class Runs(Protocol):
    """Runs that can be listed."""

    @property
    def about(self) -> str:
        """Where they are, as in "under qed-runs"."""
        ...

    def runs(self) -> list[Listed]:
        """Every run, oldest first."""
        ...


class Place(Runs, Protocol):
    """A root of local runs, or a namespace of a cluster."""

    def suspend(self, run: Listed) -> str:
        """Have it save and stop; a sentence that says what happens."""
        ...

    def resume(self, run: Listed) -> str:
        """Have it go on from where it stopped; a sentence that says what happens."""
        ...

    def cancel(self, run: Listed) -> str:
        """End it for good; a sentence that says what happens."""
        ...

    def logs(self, run: Listed, role: str, lines: int, follow: bool, out: TextIO) -> None:
        """Print the newest logs of one role, or of all when ``role`` is empty."""
        ...


def kind_of(word: str) -> str:
    """The kind that a word means: its name, plural or short name, in any case; empty for none."""
    from qednano.api import KINDS  # the kinds' whole specs, which a list of runs has no need of

    for name, kind in KINDS.items():
        if word.lower() in {name.lower(), kind.singular, kind.plural, *kind.short_names}:
            return name
    return ""


_MOST_NAMED = 10


def _known(name: str, runs: list[Listed]) -> str:
    """The runs that there are; of many, those with names like the one that was asked for, then the newest."""
    from difflib import get_close_matches

    labels = list(dict.fromkeys(run.label for run in runs))
    if not labels:
        return "no run is there at all: is another --root, or --cluster with --namespace, meant?"
    if len(labels) <= _MOST_NAMED:
        return f"its runs are: {', '.join(labels)}"
    labels.reverse()
    alike = get_close_matches(name, list(dict.fromkeys(run.name for run in runs)), n=3, cutoff=0.6)
    labels.sort(key=lambda label: label.rpartition("/")[2] not in alike)
    more = f"{len(labels) - _MOST_NAMED} more that qednano status lists"
    return f"its runs are: {', '.join(labels[:_MOST_NAMED])} and {more}"


def find(place: Runs, wanted: str) -> tuple[Listed, str]:
    """The run that ``[kind/]name[/role]`` means, the newest of its name, and the role or ''. Raises UsageError."""
    runs = place.runs()
    parts = wanted.split("/")
    kind = kind_of(parts[0]) if len(parts) > 1 else ""
    if kind:
        parts.pop(0)
    name, role = parts[0], "/".join(parts[1:])
    found = [run for run in runs if run.name == name and kind in ("", run.kind)]
    if not found:
        raise UsageError(f"there is no run {wanted} {place.about}; {_known(name, runs)}")
    if len({(run.kind, run.namespace) for run in found}) > 1:
        raise UsageError(f"{name} is several runs; say which: {', '.join(run.label for run in found)}")
    return found[-1], role
