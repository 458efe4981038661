"""When a failed request is sent again."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently: waits are uniform in 0..min(longest, first * 2^try), all in seconds.

    A 429 says that the server is well and the client too fast: it is waited for up to `patience` seconds, in any
    number of tries.
    """

    tries: int = 5
    first: float = 0.5
    longest: float = 30.0
    longest_retry_after: float = 120.0
    patience: float = 1800.0

    def wait(self, failures: int, retry_after: float | None, rng: random.Random) -> float:
        """Seconds to wait after the `failures`-th failure (from 1)."""
        backoff = rng.uniform(0.0, min(self.longest, self.first * 2.0 ** min(failures - 1, 60)))
        if retry_after is None:
            return backoff
        return min(self.longest_retry_after, retry_after) + backoff / 10


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date; None when absent or unreadable."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None  # not for nan
