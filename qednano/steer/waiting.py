"""Wait until a run is where it is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable

from qednano.api import Phase
from qednano.errors import Unavailable, UsageError
from qednano.steer.interface import Listed, Place, find


def wait(
    place: Place,
    wanted: str,
    phase: str,
    seconds: float,
    tell: Callable[[str], None],
    poll: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> Listed:
    """The run once it is in the phase; ``tell`` hears each change.

    Raises UsageError when it ended in another phase, Unavailable after ``seconds`` (0 waits for ever).
    """
    known = [item.value for item in Phase]
    if phase not in known:
        raise UsageError(f"--for is {phase!r}; it must be one of {', '.join(known)}")
    began, told = clock(), ""
    while True:
        run, _ = find(place, wanted)
        message = run.status.message if run.status else ""
        line = f"{run.label}: {run.phase}{f': {message}' if message else ''}"
        if line != told:
            tell(line)
            told = line
        if run.phase == phase:
            return run
        if run.ended:
            raise UsageError(f"{run.label} ended as {run.phase}, not as {phase}{f': {message}' if message else ''}")
        if seconds and clock() - began > seconds:
            raise Unavailable(f"{run.label} is {run.phase} after {seconds:g} s, not {phase}")
        time.sleep(poll)
