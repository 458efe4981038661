"""Why a request gave no answer: what can be tried again, what can't, and one log line for each cause."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from qednano.errors import QedError

log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0  # between two lines of one cause


class RequestRefused(QedError):
    """The server understood the request and refused it; sending it again would not help."""

    reason = "RequestRefused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cause(StrEnum):
    """Kinds of failure that may pass; the label of the metric of retries."""

    CONNECTION = "connection"  # none, or it broke before the answer began
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate limited"  # 429
    OVERLOADED = "overloaded"  # 503, 529
    SERVER_ERROR = "server error"  # other 5xx, 408, 425, or an error told in the answer
    CUT_SHORT = "cut short"  # the body or stream ended before its end
    UNREADABLE = "unreadable"  # not JSON
    INCOMPLETE = "incomplete"  # JSON without what the protocol promises
    TOO_LONG = "too long"


OVERLOAD = frozenset({Cause.TIMEOUT, Cause.RATE_LIMITED, Cause.OVERLOADED, Cause.SERVER_ERROR})
"""Failures that fewer requests at once may help against."""


class Failure(Exception):
    """One try failed and another may not. `after`: seconds that the server asked to wait."""

    def __init__(self, cause: Cause, words: str, after: float | None = None) -> None:
        super().__init__(words)
        self.cause, self.after = cause, after


class FailureLog:
    """One line when a cause first shows, then at most one a minute that says how often it came again."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._more: Counter[Cause] = Counter()
        self._told: dict[Cause, float] = {}
        self._last: dict[Cause, str] = {}

    def note(self, failure: Failure) -> None:
        """A try failed."""
        cause, now = failure.cause, self._clock()
        if cause not in self._told:
            log.warning("%s: %s: %s; trying again", self._name, cause, failure)
            self._told[cause] = now
            return
        self._more[cause] += 1
        self._last[cause] = str(failure)
        if now - self._told[cause] >= _QUIET_SECONDS:
            self._tell(cause)

    def close(self) -> None:
        """Say what has not been said yet."""
        for cause in sorted(self._more):
            self._tell(cause)

    def _tell(self, cause: Cause) -> None:
        log.warning("%s: %s: %d more; the last: %s", self._name, cause, self._more[cause], self._last[cause])
        del self._more[cause]
        self._told[cause] = self._clock()
