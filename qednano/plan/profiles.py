"""A run with its profile: the administrator's words where the run has none. Pure but for reading the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from qednano.api.common import ApiModel, RunSpec
from qednano.api.profile import Profile
from qednano.errors import ConfigError
from qednano.plan.roles import roles

M = TypeVar("M", bound=ApiModel)


def load_profiles(path: Path) -> dict[str, Profile]:
    """Name to profile from a YAML file, the chart's value ``profiles``. Raises ConfigError that names the field."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no mapping of names to profiles")
    return {str(name): _profile(path, str(name), value) for name, value in values.items()}


def _profile(path: Path, name: str, value: Any) -> Profile:
    try:
        return Profile.model_validate(value or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, (name, *first["loc"])))
        raise ConfigError(f"{path}: {field}: {first['msg'].removeprefix('Value error, ')}") from None


def unknown_profile(name: str, known: Mapping[str, Profile]) -> str:
    """Why there is no such profile, as a sentence; empty when there is."""
    if not name or name in known:
        return ""
    there = f"the profiles here are {', '.join(sorted(known))}" if known else "the administrator has defined none"
    return f"spec.profile is {name}, but {there}"


def merged(spec: RunSpec, profile: Profile | None) -> RunSpec:
    """The spec with the profile's values where it has defaults. Raises ConfigError when the two don't go together.

    Node labels, devices, variables and placements are merged by name, the run's before the profile's; tolerations
    add up. A placement of a role that the run doesn't have is left out: one profile serves every kind.
    """
    if profile is None:
        return spec
    names = {role.name for role in roles(spec)}
    kept = {role: wish for role, wish in profile.scheduling.placement.items() if role in names}
    theirs = profile.scheduling.model_copy(update={"placement": kept})
    try:
        update = {"images": _filled(spec.images, profile.images), "scheduling": _filled(spec.scheduling, theirs)}
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"spec.scheduling and profile {spec.profile} don't go together: {why}") from None
    return spec.model_copy(update=update)


def _filled(own: M, other: M) -> M:
    default = type(own)()
    values: dict[str, Any] = {}
    for name in type(own).model_fields:
        mine, theirs = getattr(own, name), getattr(other, name)
        if isinstance(mine, dict):
            values[name] = {**theirs, **mine}
        elif name == "env":
            values[name] = list({item.name: item for item in [*theirs, *mine]}.values())
        elif isinstance(mine, list):
            values[name] = [*mine, *(item for item in theirs if item not in mine)]
        else:
            values[name] = theirs if mine == getattr(default, name) else mine
    return type(own)(**values)


def digest(spec: RunSpec, profile: Profile) -> str:
    """``sha256:`` and the digest of what a merged spec takes from the two: images, scheduling and price."""
    value = result(spec, profile)
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def result(spec: RunSpec, profile: Profile) -> dict[str, Any]:
    """What a merged spec takes from run and profile, as it stands in YAML."""
    found = {
        "images": spec.images.model_dump(mode="json", by_alias=True),
        "scheduling": spec.scheduling.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    price = profile.gpu_hour_price
    return found if price is None else {**found, "gpuHourPrice": f"{price:f}"}
