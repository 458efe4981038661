"""Which language models a spec asks for, what serves each, and which Secrets the run's tasks need."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from qednano.api.common import ModelRef, RunSpec, Server
from qednano.api.evalrun import EvaluatedModel
from qednano.api.language import LanguageModel, ServedAs
from qednano.api.secret import SecretKey


@dataclass(frozen=True)
class ModelUse:
    """``field`` of the spec (as in stages/generate/teacher) asks a language model.

    ``role`` is the run's role that serves it; empty for an endpoint.
    """

    field: str
    role: str
    model: LanguageModel


def language_models(spec: RunSpec) -> tuple[ModelUse, ...]:
    """Every language model of the spec, in field order. Equal models with equal servers share a role."""
    uses: list[ModelUse] = []
    taken: dict[str, tuple[ModelRef, Server]] = {}
    for field, value, role in _walk(spec, "", ""):
        if isinstance(value, EvaluatedModel) and value.endpoint is not None:
            uses.append(ModelUse(field.removesuffix("/model"), "", LanguageModel(endpoint=value.endpoint)))
        if not isinstance(value, LanguageModel):
            continue
        uses.append(ModelUse(field, _role(value, role, taken), value))
    return tuple(uses)


def _role(value: LanguageModel, wanted: str, taken: dict[str, tuple[ModelRef, Server]]) -> str:
    if value.model is None:
        return ""
    served = (value.model, value.server)
    for name, other in taken.items():
        if other == served:
            return name
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}{number}", number + 1
    taken[name] = served
    return name


def served_roles(spec: RunSpec) -> dict[str, ModelUse]:
    """The roles that serve language models of the spec, each with its first use."""
    found: dict[str, ModelUse] = {}
    for use in language_models(spec):
        if use.role:
            found.setdefault(use.role, use)
    return found


def secrets(spec: RunSpec, under: str = "") -> tuple[SecretKey, ...]:
    """The Secrets' keys that the spec names, or that its field ``under`` does, each once; but not ``hubToken``."""
    found = (
        value
        for path, value, _ in _walk(spec, "", "")
        if isinstance(value, SecretKey) and path.startswith(under) and path != "hubToken"
    )
    return tuple(dict.fromkeys(found))


@functools.cache
def _fields(kind: type[BaseModel]) -> tuple[tuple[str, str, str | None], ...]:
    """Each field of a class: attribute, name in YAML, the role that it names (None for none).

    Once for each class: a run is looked at thousands of times.
    """
    return tuple(
        (name, to_camel(name), next((item.role for item in info.metadata if isinstance(item, ServedAs)), None))
        for name, info in kind.model_fields.items()
    )


def _walk(model: BaseModel, path: str, role: str) -> Iterator[tuple[str, Any, str]]:
    """Every model below ``model`` with its path and the role that its field, or the nearest above it, names."""
    for name, told, named in _fields(type(model)):
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            items: Iterable[tuple[str, Any]] = ((told, value),)
        elif isinstance(value, list):
            items = ((f"{told}/{index}", item) for index, item in enumerate(value) if isinstance(item, BaseModel))
        else:
            continue
        marked = role if named is None else named
        for below, item in items:
            place = f"{path}/{below}" if path else below
            yield place, item, marked
            yield from _walk(item, place, marked)
