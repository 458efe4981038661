"""What a scaffold is and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from qednano.evals.calls import Status
from qednano.evals.tree import BranchFailed, Node, Reply


class Stop(StrEnum):
    """Why a scaffold stopped."""

    ANSWERED = "Answered"  # all that was to be done is done
    ACCEPTED = "Accepted"  # its verifiers agree that the proof is right
    ROUNDS = "Rounds"  # its rounds are over without that
    GAVE_UP = "GaveUp"  # going on was not expected to pay
    BUDGET = "Budget"  # tokens, money or time are spent


def stop_of(failure: BranchFailed, otherwise: Stop) -> Stop:
    """Why a scaffold stopped that could not go on: the budget, if that was it."""
    return Stop.BUDGET if failure.status is Status.BUDGET else otherwise


@dataclass(frozen=True)
class Solution:
    """The answer to one problem, and why no more was done. `belief`: how sure the scaffold is of it, where it says."""

    proof: Reply
    stop: Stop
    belief: float | None = None


Solve = Callable[[Node], Awaitable[Solution]]


class Scaffold(Protocol):
    """Asks models through nodes; holds no state between cohorts. `cohort`: samples that are solved together."""

    cohort: int

    def begin(self, samples: int) -> Solve:
        """What solves each of so many samples of one cohort, all at once. It raises BranchFailed without any proof."""
        ...


class Alone(ABC):
    """A scaffold that solves each sample by itself."""

    cohort = 1

    def begin(self, samples: int) -> Solve:
        """Its `solve`: samples know nothing of one another."""
        return self.solve

    @abstractmethod
    async def solve(self, node: Node) -> Solution:
        """One answer to the node's problem. Raises BranchFailed without any proof."""
