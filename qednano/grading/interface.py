"""What a grader is. A grade that could not be obtained is not a zero: it has no score and says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from qednano.data.schema import ProblemRow

FULL_SCORE = 7


class Failure(StrEnum):
    """Why there is no grade; a label of metrics, so the list is short and fixed."""

    TIMEOUT = "timeout"  # not within the grader's time
    UNREADABLE = "unreadable"  # the grader answered, but gave no verdict
    UNAVAILABLE = "unavailable"  # its model or process did not answer
    REFUSED = "refused"  # its model refused the request
    UNGRADABLE = "ungradable"  # the problem lacks what this grader needs, such as a known answer
    ERROR = "error"  # the grader itself broke


_LASTING = frozenset({Failure.REFUSED, Failure.UNGRADABLE})


@dataclass(frozen=True)
class Grade:
    """score: 0..7, None when no grade could be had; reason: the score in words; details: for the report, JSON-able.

    ``failure`` says why there is no score; a grade without score and failure counts as an error of the grader.
    """

    score: float | None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= FULL_SCORE:
            raise ValueError(f"a score of {self.score} is outside 0..{FULL_SCORE}")
        if self.score is not None and self.failure is not None:
            raise ValueError(f"a grade has a score or a failure, not {self.score} and {self.failure}")
        if self.score is None and self.failure is None:
            object.__setattr__(self, "failure", Failure.ERROR)

    @property
    def reward(self) -> float | None:
        """The score as a share of the full score, 0..1; None without a score."""
        return None if self.score is None else self.score / FULL_SCORE

    @property
    def may_succeed_again(self) -> bool:
        """Whether there is no score, and asking once more may give one."""
        return self.score is None and self.failure not in _LASTING


@runtime_checkable
class Grader(Protocol):
    """Grades proofs; safe to call many times at once from one event loop."""

    @property
    def name(self) -> str: ...

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The grade of one proof; ``cut_off`` when the token limit ended it.

        Never raises for what the proof says; no score when the grader itself fails. A spent budget is raised.
        """
        ...

    async def close(self) -> None:
        """Free what the grader holds."""
        ...
