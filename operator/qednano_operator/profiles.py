"""The profile of one run: chosen among the administrator's before the start, kept with the run from then on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from qednano.api.common import RunSpec
from qednano.api.profile import Profile
from qednano.errors import ConfigError
from qednano.plan import merged, unknown_profile
from qednano.plan.profiles import digest, result

FILE = "profile.json"  # beside the run's configuration


@dataclass(frozen=True)
class Chosen:
    """A run's profile, and the digest of what the run and it came to."""

    name: str
    profile: Profile
    digest: str


def choose(spec: RunSpec, kept: str, known: Mapping[str, Profile]) -> tuple[RunSpec, Chosen | None]:
    """The spec merged with its profile. Raises ConfigError with a sentence.

    ``kept`` is what ``to_keep`` wrote when the run started: then ``known`` has no say any more.
    """
    if not spec.profile:
        return spec, None
    if kept:
        try:
            found = json.loads(kept)
            profile, told = Profile.model_validate(found["profile"]), str(found["digest"])
        except (ValueError, KeyError, TypeError, ValidationError):
            raise ConfigError(f"the profile that the run started with ({FILE}) can't be read") from None
        return merged(spec, profile), Chosen(spec.profile, profile, told)
    complaint = unknown_profile(spec.profile, known)
    if complaint:
        raise ConfigError(complaint)
    profile = known[spec.profile]
    whole = merged(spec, profile)
    return whole, Chosen(spec.profile, profile, digest(whole, profile))


def to_keep(spec: RunSpec, chosen: Chosen) -> str:
    """What is written down at the start: the profile as it was, and what a merged spec took from it."""
    value = {
        "name": chosen.name,
        "digest": chosen.digest,
        "profile": chosen.profile.model_dump(mode="json", by_alias=True, exclude_none=True),
        "merged": result(spec, chosen.profile),
    }
    return json.dumps(value, indent=1, sort_keys=True)
