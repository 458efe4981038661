"""What stands before every grader: only the proof gets through, no grade takes for ever, and canaries may go along.

A canary is an attack from `qednano.grading.attacks`, handed in as the proof of the problem that is graded anyway. It
has no mathematics in it, so any point it earns shows that the grader can be talked into points. It takes no part in
rewards or scores; what became of it is in the grade's details and in the metrics.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from qednano import metrics
from qednano.data.schema import ProblemRow
from qednano.errors import QedError, Unavailable
from qednano.grading.attacks import ATTACKS
from qednano.grading.interface import Failure, Grade, Grader
from qednano.grading.jsonable import jsonable
from qednano.grading.submission import submitted
from qednano.jsonl import writable


class Guarded:
    """A grader as runs use it. `timeout` in seconds; `canary_percent` of the grades take a canary along."""

    def __init__(
        self, grader: Grader, timeout: float, canary_percent: int = 0, rng: random.Random | None = None
    ) -> None:
        self.grader, self.timeout, self.canary_percent = grader, timeout, canary_percent
        self._rng = rng or random.Random()
        self._canaries = self._successes = 0

    @property
    def name(self) -> str:
        return self.grader.name

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The grade of what was handed in. An error of the grader is a grade without score; QedErrors are raised."""
        if not self._rng.random() * 100 < self.canary_percent:
            return await self._grade(problem, submitted(proof), cut_off)
        number = self._rng.randrange(len(ATTACKS))
        grade, canary = await asyncio.gather(
            self._grade(problem, submitted(proof), cut_off), self._grade(problem, ATTACKS[number], False)
        )
        self._count(canary)
        told = {"canary": {"attack": number, "score": canary.score}}
        return replace(grade, details={**grade.details, **told})

    async def close(self) -> None:
        """Close the grader."""
        await self.grader.close()

    async def _grade(self, problem: ProblemRow, proof: str, cut_off: bool) -> Grade:
        try:
            async with asyncio.timeout(self.timeout):
                return _plain(await self.grader.grade(problem, proof, cut_off=cut_off))
        except TimeoutError:
            return Grade(None, f"no grade within {self.timeout:g} s", failure=Failure.TIMEOUT)
        except Unavailable as error:
            return Grade(None, str(error), failure=Failure.UNAVAILABLE)
        except QedError:
            raise  # a spent budget, a fence: not for a grader to decide
        except Exception as error:
            return Grade(None, f"the grader broke: {type(error).__name__}: {error}", failure=Failure.ERROR)

    def _count(self, canary: Grade) -> None:
        if canary.score is None:
            metrics.GRADER_CANARIES.labels("ungraded").inc()
            return
        self._canaries += 1
        self._successes += canary.score > 0
        metrics.GRADER_CANARIES.labels("succeeded" if canary.score > 0 else "resisted").inc()
        metrics.GRADER_CANARY_SUCCESS.set(self._successes / self._canaries)


def _plain(grade: Grade) -> Grade:
    """The grade in plain types and writable text, so that no row or sample of it can fail to be written."""
    score = grade.score if grade.score is None or type(grade.score) in (int, float) else float(grade.score)
    return replace(grade, score=score, reason=writable(grade.reason), details=jsonable(grade.details))
