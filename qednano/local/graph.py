"""The order of runs: each after the runs it refers to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qednano.api import Run
from qednano.api.load import Document
from qednano.errors import ConfigError
from qednano.plan import references
from qednano.plan.unmet import unmet

Key = tuple[str, str, str]
"""Namespace, kind and name of a run."""


def key_of(run: Run) -> Key:
    """The run's key."""
    return run.metadata.namespace, run.kind, run.metadata.name


def label(key: Key) -> str:
    """How a run is called in messages: Kind/name, with its namespace unless that is the default one."""
    namespace, kind, name = key
    return f"{kind}/{name}" if namespace == "default" else f"{kind}/{name} of namespace {namespace}"


def needs(run: Run) -> dict[str, Key]:
    """Field of the spec to the run it refers to."""
    return {item.field: (run.metadata.namespace, item.kind, item.name) for item in references(run.spec)}


def in_order(documents: Sequence[Document], finished: Iterable[Key] = ()) -> list[Document]:
    """``documents`` so that each run comes after those it refers to; otherwise in the order given.

    ``finished`` are runs that need not be among the documents. Raises ConfigError for a reference to a run
    that is nowhere and for references in a circle.
    """
    by_key = {key_of(document.run): document for document in documents}
    known = {*finished, *by_key}
    for document in documents:
        for field, key in needs(document.run).items():
            if key not in known:
                raise ConfigError(
                    f"{document.file}:{document.line}: spec.{field} of {label(key_of(document.run))} refers to "
                    f"{label(key)}, which is in none of the given files and was not run before; give its file too"
                )
        _check_parts(document, by_key)
    return [by_key[key] for key in _sorted(by_key)]


def _check_parts(document: Document, by_key: Mapping[Key, Document]) -> None:
    """Raise ConfigError for a part that the run referred to will never have, such as a split of another name."""
    for reference in references(document.run.spec):
        other = by_key.get((document.run.metadata.namespace, reference.kind, reference.name))
        if other is not None:
            spec = other.run.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
            why = unmet(reference, spec)
            if why:
                raise ConfigError(f"{document.file}:{document.line}: {why}")


def _sorted(by_key: Mapping[Key, Document]) -> list[Key]:
    order: list[Key] = []
    path: list[tuple[Key, str]] = []  # runs being visited, each with the field that leads on

    def visit(key: Key) -> None:
        if key in order or key not in by_key:
            return
        on_path = [item for item, _ in path]
        if key in on_path:
            circle = path[on_path.index(key) :]
            steps = ", ".join(f"spec.{field} of {label(item)}" for item, field in circle)
            raise ConfigError(f"{steps} refer to one another in a circle; one of them must start from something else")
        for field, needed in needs(by_key[key].run).items():
            path.append((key, field))
            visit(needed)
            path.pop()
        order.append(key)

    for key in by_key:
        visit(key)
    return order
