"""Marking schemes as data: checkpoints with points, parallel chains, zero-credit items, deductions and caps.

A scheme is worth exactly seven points. Checkpoints outside of chains add up; of parallel chains, which are different
ways to prove one thing, the best one counts and they are never added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from qednano.errors import DataError
from qednano.grading.interface import FULL_SCORE

CRITICAL_POINTS = 4  # of the seven at least so many are for critical steps, where a scheme marks any as critical

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
Description = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Identifier
    description: Description


class Checkpoint(_Part):
    """A step that earns up to `points`; critical if the proof stands or falls with it."""

    points: int = Field(ge=1, le=FULL_SCORE)
    critical: bool = False


class Chain(_Part):
    """One way to prove a part: its checkpoints add up."""

    checkpoints: list[Checkpoint] = Field(min_length=1, max_length=16)

    @property
    def points(self) -> int:
        """What the whole chain earns."""
        return sum(checkpoint.points for checkpoint in self.checkpoints)


class Parallel(_Part):
    """A part that can be proved in several ways, of which the best one counts."""

    chains: list[Chain] = Field(min_length=2, max_length=8)

    @property
    def best(self) -> Chain:
        """The chain that earns most; the first of equals."""
        return max(self.chains, key=lambda chain: chain.points)


class ZeroCredit(_Part):
    """Something that people write and that earns nothing."""


class Deduction(_Part):
    """A flaw that costs points once, however often it occurs."""

    points: int = Field(ge=1, le=FULL_SCORE)


class Cap(_Part):
    """A flaw after which the score is at most `at_most`."""

    at_most: int = Field(ge=0, lt=FULL_SCORE)


class Rubric(BaseModel):
    """A marking scheme out of seven points. Constructing one checks it; the error says what is wrong with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoints: list[Checkpoint] = Field(default_factory=list, max_length=16)
    parallel: list[Parallel] = Field(default_factory=list, max_length=8)
    zero_credit: list[ZeroCredit] = Field(default_factory=list, max_length=32)
    deductions: list[Deduction] = Field(default_factory=list, max_length=32)
    caps: list[Cap] = Field(default_factory=list, max_length=32)

    @model_validator(mode="after")
    def _is_sound(self) -> Rubric:
        seen: set[str] = set()
        for part in self.parts():
            if part.id in seen:
                raise ValueError(f"the id {part.id} is used twice: give each part its own")
            seen.add(part.id)
        added = sum(checkpoint.points for checkpoint in self.checkpoints)
        chained = sum(group.best.points for group in self.parallel)
        if added + chained != FULL_SCORE:
            told = f"{added} from checkpoints" + "".join(
                f", {group.best.points} from the best chain of {group.id}" for group in self.parallel
            )
            side = "more than can be earned" if added + chained > FULL_SCORE else "so no proof earns full marks"
            raise ValueError(f"a perfect proof earns {added + chained} ({told}); it must be {FULL_SCORE}: {side}")
        perfect = self.perfect_path()
        critical = sum(checkpoint.points for checkpoint in perfect if checkpoint.critical)
        if any(checkpoint.critical for checkpoint in self.all_checkpoints()) and critical < CRITICAL_POINTS:
            raise ValueError(
                f"critical steps earn {critical} of a perfect proof's {FULL_SCORE} points; at least {CRITICAL_POINTS}"
            )
        return self

    def parts(self) -> Iterator[_Part]:
        """Everything that has an id."""
        yield from self.checkpoints
        for group in self.parallel:
            yield group
            for chain in group.chains:
                yield chain
                yield from chain.checkpoints
        yield from self.zero_credit
        yield from self.deductions
        yield from self.caps

    def all_checkpoints(self) -> Iterator[Checkpoint]:
        """Every checkpoint, in chains or not."""
        yield from self.checkpoints
        for group in self.parallel:
            for chain in group.chains:
                yield from chain.checkpoints

    def perfect_path(self) -> list[Checkpoint]:
        """Checkpoints that a proof with full marks meets: all that add up, and the best chain of each part."""
        return [*self.checkpoints, *(checkpoint for group in self.parallel for checkpoint in group.best.checkpoints)]

    @classmethod
    def parse(cls, text: str, where: str = "the marking scheme") -> Rubric:
        """A scheme from JSON. DataError says where it is and everything that is wrong, to be told to who wrote it."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'scheme'}: {fault['msg'].removeprefix('Value error, ')}"
                for fault in error.errors(include_url=False)[:8]
            )
            raise DataError(f"{where} is not valid: {faults}") from None

    def told(self) -> str:
        """The scheme as a grader reads it."""
        lines = [_line(checkpoint) for checkpoint in self.checkpoints]
        for group in self.parallel:
            lines.append(f"[{group.id}] {group.description}: only the best of these ways counts, never their sum:")
            for chain in group.chains:
                lines.append(f"  - [{chain.id}] {chain.description}")
                lines += [f"    {_line(checkpoint)}" for checkpoint in chain.checkpoints]
        lines += [f"[{item.id}] earns nothing: {item.description}" for item in self.zero_credit]
        lines += [f"[{item.id}] minus {item.points}: {item.description}" for item in self.deductions]
        lines += [f"[{item.id}] at most {item.at_most} in all: {item.description}" for item in self.caps]
        return "\n".join(lines)


def _line(checkpoint: Checkpoint) -> str:
    plural = "point" if checkpoint.points == 1 else "points"
    return f"[{checkpoint.id}] {checkpoint.points} {plural}: {checkpoint.description}"


def scheme_of(text: str | None, where: str = "the marking scheme") -> Rubric | str:
    """The scheme of a row's rubric column: typed if it is a JSON object, else in the words that stand there.

    Lists and texts in JSON, as some benchmarks have them, are words. DataError for an object that is no valid scheme.
    """
    words = (text or "").strip()
    if not words:
        return ""
    try:
        value = json.loads(words)
    except ValueError:
        return words
    if isinstance(value, dict):
        return Rubric.parse(words, where)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


@dataclass(frozen=True)
class Marks:
    """A proof's score by a scheme, 0..7, and how it came about: what counted, what was lost and what capped it."""

    score: int
    earned: int
    counted: dict[str, int] = field(default_factory=dict)
    deducted: int = 0
    capped_at: int | None = None


def score(rubric: Rubric, awarded: Mapping[str, int], flaws: Set[str] = frozenset()) -> Marks:
    """Points by checkpoint id, and ids of the deductions and caps that apply, as a score.

    A checkpoint that isn't named earns 0. DataError for an unknown id or points outside of a checkpoint's range.
    """
    worth = {checkpoint.id: checkpoint.points for checkpoint in rubric.all_checkpoints()}
    for name, points in awarded.items():
        if name not in worth:
            raise DataError(f"the marking scheme has no checkpoint {name!r}: use one of {', '.join(worth)}")
        if isinstance(points, bool) or not 0 <= points <= worth[name]:
            raise DataError(f"checkpoint {name} is worth 0 to {worth[name]} points, not {points}")
    known = {item.id for item in (*rubric.deductions, *rubric.caps)}
    if unknown := sorted(flaws - known):
        raise DataError(f"the marking scheme has no deduction or cap {unknown[0]!r}")

    counted = {checkpoint.id: awarded.get(checkpoint.id, 0) for checkpoint in rubric.checkpoints}
    for group in rubric.parallel:
        best = max(group.chains, key=lambda chain: sum(awarded.get(item.id, 0) for item in chain.checkpoints))
        counted |= {item.id: awarded.get(item.id, 0) for item in best.checkpoints}
    earned = sum(counted.values())
    deducted = sum(item.points for item in rubric.deductions if item.id in flaws)
    caps = [cap.at_most for cap in rubric.caps if cap.id in flaws]
    left = max(0, earned - deducted)
    return Marks(min([left, *caps]), earned, counted, deducted, min(caps) if caps and min(caps) < left else None)
