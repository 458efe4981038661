"""A grade that could not be had is asked for again before the sample goes without one."""

from __future__ import annotations

import asyncio
import time

from qednano import metrics
from qednano.data.schema import ProblemRow
from qednano.grading.health import GraderHealth
from qednano.grading.interface import Grade, Grader

TRIES = 3
_FIRST_WAIT = 0.2  # seconds; doubles


async def obtain_grade(
    grader: Grader, problem: ProblemRow, proof: str, *, cut_off: bool = False, health: GraderHealth | None = None
) -> Grade:
    """The grade, or after `TRIES` tries where they can help the last one without a score, which is counted.

    With `health`, waits while the grader is known to be failing.
    """
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(_FIRST_WAIT * 2 ** (attempt - 1))
        if health is not None:
            await health.admit()
        started = time.monotonic()
        grade = await grader.grade(problem, proof, cut_off=cut_off)
        metrics.GRADER_SECONDS.observe(time.monotonic() - started)
        if not grade.may_succeed_again:
            break
    if health is not None:
        health.record(grade)
    if grade.failure is not None:
        metrics.GRADER_FAILURES.labels(grade.failure.value).inc()
    return grade
