"""What a scaffold is and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from qednano.data.schema import ProblemRow
from qednano.rl.rollouts import Rollouts


@dataclass(frozen=True)
class Answer:
    """One sample: the whole text, the proof in it, and its cost in tokens and seconds (of its request)."""

    text: str
    proof: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Scaffold(Protocol):
    """Asks the model through `rollouts`; holds no state between problems."""

    async def answers(self, rollouts: Rollouts, problem: ProblemRow, n: int) -> list[Answer]:
        """`n` independent samples, or none when the prompt leaves no room for an answer."""
        ...
