"""When a grader fails too often, the run waits for it: samples are worth more than to be dropped by the thousand.

The share of failures is taken over the last grades. Above the limit everyone who wants a grade waits; after each pause,
every one twice as long as the last, one of them tries whether the grader is back. The first grade ends the wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from qednano import metrics
from qednano.grading.interface import Failure, Grade

log = logging.getLogger(__name__)

WINDOW = 100  # grades over which the share is taken
FEWEST = 10  # grades before there is a share at all


class GraderHealth:
    """How often a grader failed of late, shared by all who ask it in one event loop.

    ``said`` is told one sentence when the wait begins or changes, and "" when it ends: hand it to
    ``Reporter.update(paused=…)``. The pauses are in seconds.
    """

    def __init__(
        self,
        max_failure_percent: int,
        *,
        said: Callable[[str], None] = lambda why: None,
        window: int = WINDOW,
        first_pause: float = 15.0,
        longest_pause: float = 120.0,
    ) -> None:
        self.limit = max_failure_percent
        self.paused = ""  # the sentence, while callers wait
        self._said = said
        self._failed: deque[bool] = deque(maxlen=window)
        self._first_pause, self._longest_pause, self._pause = first_pause, longest_pause, first_pause
        self._turn = asyncio.Lock()
        self._well = asyncio.Event()

    @property
    def failure_percent(self) -> float:
        """Share of failures among the last grades, in percent; 0 before there are any."""
        return 100 * sum(self._failed) / len(self._failed) if self._failed else 0.0

    async def admit(self) -> None:
        """Return at once while the grader is well; else when it is again, or when it is this caller's turn to try."""
        if not self.paused:
            return
        async with self._turn:
            if not self.paused:
                return
            try:
                await asyncio.wait_for(self._well.wait(), self._pause)
            except TimeoutError:
                self._pause = min(self._longest_pause, 2 * self._pause)

    def record(self, grade: Grade) -> None:
        """Take in what came of a grade. A problem that can't be graded at all says nothing about the grader."""
        if grade.failure is Failure.UNGRADABLE:
            return
        failed = grade.score is None
        if self.paused and not failed:
            self._resume()
        self._failed.append(failed)
        metrics.GRADER_FAILURE_RATIO.set(self.failure_percent / 100)
        if failed and len(self._failed) >= min(FEWEST, self._failed.maxlen or FEWEST):
            share = self.failure_percent
            if self.paused or share > self.limit:
                self._wait(share, grade.reason)

    def _wait(self, share: float, reason: str) -> None:
        self._well.clear()
        self.paused = (
            f"the grader failed for {share:.0f} % of the last {len(self._failed)} grades (maxFailurePercent is "
            f"{self.limit}): {reason}; it is tried again now and then, and the run goes on when it answers"
        )
        log.warning("%s", self.paused)
        self._said(self.paused)

    def _resume(self) -> None:
        self._failed.clear()
        self._pause = self._first_pause
        self.paused = ""
        self._well.set()
        log.info("the grader answers again")
        self._said("")
