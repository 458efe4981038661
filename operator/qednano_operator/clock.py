"""The API server's time, as its answers tell it: what all who may lead have in common, and what stamps their objects.

The clock of the operator's own node may be wrong, may be set, and is another one after a takeover; so it is never read
but to begin with. An answer's ``Date`` was written between the question and the answer, which bounds how far the clocks
are apart; within these bounds nothing is corrected.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

_HTTP = "%a, %d %b %Y %H:%M:%S GMT"


class Clock:
    """Runs on this process's monotonic clock, and is corrected by each answer of the API server."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def seconds(self) -> float:
        """Unix time."""
        return time.monotonic() + self._offset

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def learn(self, date: str | None, asked: float) -> None:
        """Correct this clock by the ``Date`` of an answer of the API server, just received.

        ``asked``: when the question was sent, by ``time.monotonic()``; answers to others may have corrected this clock
        since, which must not be done twice.
        """
        self._offset += _apart(date, asked + self._offset, self.seconds())

    def lag(self, date: str | None, asked: float) -> float:
        """Seconds by which the clock of whoever answered is behind this one, as far as is certain; ``asked`` as in
        ``learn``."""
        return -_apart(date, asked + self._offset, self.seconds())


def _apart(date: str | None, asked: float, answered: float) -> float:
    """Seconds by which the clock that wrote ``date`` is at least ahead; 0 when they may agree."""
    try:
        told = datetime.strptime(date or "", _HTTP).replace(tzinfo=UTC).timestamp()  # whole seconds, rounded down
    except ValueError:
        return 0.0
    return max(told - answered, 0.0) + min(told + 1.0 - asked, 0.0)
