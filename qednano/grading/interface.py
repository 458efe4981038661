"""What a grader is. A grade that could not be obtained is not a zero: it has no score and says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from qednano.data.schema import ProblemRow

FULL_SCORE = 7


@dataclass(frozen=True)
class Grade:
    """score: 0..7, None when no grade could be had; reason: the score in words; details: for the report, JSON-able."""

    score: int | None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= FULL_SCORE:
            raise ValueError(f"a score of {self.score} is outside 0..{FULL_SCORE}")

    @property
    def reward(self) -> float | None:
        """The score as a share of the full score, 0..1; None without a score."""
        return None if self.score is None else self.score / FULL_SCORE


@runtime_checkable
class Grader(Protocol):
    """Grades proofs; safe to call many times at once from one event loop."""

    @property
    def name(self) -> str: ...

    async def grade(self, problem: ProblemRow, proof: str) -> Grade:
        """The grade of one proof. Never raises for what the proof says; no score when the grader itself fails."""
        ...

    async def close(self) -> None:
        """Free what the grader holds."""
        ...
