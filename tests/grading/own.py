"""Graders as a user writes them, for the entry points' tests."""

from __future__ import annotations

import asyncio

import numpy as np

from qednano.errors import Unavailable
from qednano.grading.interface import Grade
from qednano.llm.budget import BudgetSpent


class Fixed:
    name = "fixed"

    def __init__(self, score: str = "3", seconds: str = "0") -> None:
        self.score, self.seconds = float(score), float(seconds)
        self.closed = False

    async def grade(self, problem, proof, *, cut_off=False):
        await asyncio.sleep(self.seconds)
        if self.score == -2:
            raise Unavailable("my service is down")
        if self.score == -3:
            raise BudgetSpent("no money")
        if self.score < 0:
            raise ZeroDivisionError("oh")
        return Grade(self.score, f"cut off: {cut_off}")

    async def close(self):
        self.closed = True


class Deaf:
    name = "deaf"

    async def grade(self, problem, proof):
        return Grade(1)

    async def close(self): ...


def nothing() -> None: ...


class Careless:
    """What anybody's code may hand back: numbers of numpy, quotes that no file can hold, objects of its own."""

    name = "careless"

    def __init__(self, way: str = "odd") -> None:
        self.way = way

    async def grade(self, problem, proof, *, cut_off=False):
        if self.way == "bare":
            return 3.0
        details = {
            1: np.int64(2), "half": np.float32(0.5), "none": float("nan"), "quote": "\ud835", "set": {"x"},
            "own": Fixed, "deep": [{"a": (1, None, True)}],
        }  # fmt: skip
        return Grade(np.float32(3.0), "they write \ud835", details)

    async def close(self): ...
