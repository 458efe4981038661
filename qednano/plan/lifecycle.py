"""What a process's end means: one table from exit codes to actions, and the back-off between restarts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qednano.api.common import Restart


class Action(StrEnum):
    """What to do when a process has ended."""

    COMPLETE = "Complete"
    FAIL = "Fail"
    RESTART = "Restart"
    RESUME = "Resume"  # restart without counting it
    IGNORE = "Ignore"


@dataclass(frozen=True)
class Verdict:
    """The action for an ended process, and the reason in one CamelCase word."""

    action: Action
    reason: str

    @property
    def counted(self) -> bool:
        """Whether it counts against ``maxRestarts``."""
        return self.action is Action.RESTART


_TABLE = {
    0: Verdict(Action.COMPLETE, "Completed"),
    64: Verdict(Action.FAIL, "UsageError"),
    65: Verdict(Action.FAIL, "DataError"),
    66: Verdict(Action.FAIL, "InputChanged"),
    69: Verdict(Action.RESTART, "DependencyUnavailable"),
    70: Verdict(Action.RESTART, "InternalError"),
    71: Verdict(Action.RESTART, "RendezvousTimeout"),
    73: Verdict(Action.RESTART, "CheckpointFailed"),
    74: Verdict(Action.IGNORE, "Fenced"),
    75: Verdict(Action.RESUME, "Stopped"),
    76: Verdict(Action.RESTART, "NumericGuard"),
    78: Verdict(Action.FAIL, "ConfigError"),
    137: Verdict(Action.RESTART, "Killed"),
    143: Verdict(Action.RESUME, "Terminated"),
}


REASONS = frozenset(verdict.reason for verdict in _TABLE.values()) | {"ApplicationError", "OutOfMemory", "Disrupted"}
"""Every reason of a verdict of ``classify``."""

_CODE_OF_REASON = {verdict.reason: code for code, verdict in _TABLE.items()} | {"ArtifactError": 65}


def told_exit_code(exit_code: int, reason: str) -> int:
    """The exit code that the job meant, given the ``reason`` of its last words.

    torchrun ends with 1 whatever its ranks ended with, so there the last words decide. A ``Stopped`` is not
    believed: torchrun also stops the healthy ranks of a gang after one has failed.
    """
    if exit_code != 1 or reason in ("Stopped", "Completed"):
        return exit_code
    return _CODE_OF_REASON.get(reason, exit_code)


def classify(exit_code: int, *, disrupted: bool = False, out_of_memory: bool = False) -> Verdict:
    """What the end of a process means.

    ``exit_code`` is 128 + the signal's number for a killed process (negative codes of Python's
    subprocess are taken so too). ``disrupted``: evicted, preempted, or its node was lost.
    """
    if exit_code < 0:
        exit_code = 128 - exit_code
    verdict = _TABLE.get(exit_code, Verdict(Action.RESTART, "ApplicationError"))
    if verdict.action in (Action.COMPLETE, Action.FAIL):
        return verdict
    if out_of_memory:
        return Verdict(Action.RESTART, "OutOfMemory")
    if disrupted:
        return Verdict(Action.RESUME, "Disrupted")
    return verdict


def backoff_seconds(restart: Restart, counted_restarts: int) -> int:
    """Seconds to wait before restart number ``counted_restarts`` (1 is the first): doubles, bounded."""
    if counted_restarts <= 0:
        return 0
    return min(restart.max_backoff_seconds, restart.backoff_seconds << min(counted_restarts - 1, 30))
