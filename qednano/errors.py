"""Errors a person can act on; each type carries the exit code its job ends with.

The codes follow sysexits where it has one. What the caller does with each is decided in one place,
``qednano.plan.lifecycle``: 64, 65, 66 and 78 are never retried; 75 is resumed and not counted; 74 is ignored.
"""

from __future__ import annotations


class QedError(Exception):
    """Base of every error raised on purpose. The message says what, where and what to do."""

    exit_code = 70
    reason = "InternalError"


class UsageError(QedError):
    """The command line or environment of a job is wrong."""

    exit_code = 64
    reason = "UsageError"


class DataError(QedError):
    """A file or row can't be used; the message names the file and the line."""

    exit_code = 65
    reason = "DataError"


class InputChanged(QedError):
    """An input is not what it was when the run first read it."""

    exit_code = 66
    reason = "InputChanged"


class Unavailable(QedError):
    """Something this job depends on does not answer; trying again later may help."""

    exit_code = 69
    reason = "DependencyUnavailable"


class RendezvousError(QedError):
    """The ranks of a trainer did not find one another in time."""

    exit_code = 71
    reason = "RendezvousTimeout"


class CheckpointError(QedError):
    """A checkpoint could not be written; the previous one is intact."""

    exit_code = 73
    reason = "CheckpointFailed"


class Fenced(QedError):
    """A newer attempt owns the run's folder, so this one must not write to it."""

    exit_code = 74
    reason = "Fenced"


class Stopped(QedError):
    """The job was asked to stop and has saved its state; starting it again continues."""

    exit_code = 75
    reason = "Stopped"


class NumericGuard(QedError):
    """Loss or gradients are not finite for too many steps in a row."""

    exit_code = 76
    reason = "NumericGuard"


class ConfigError(QedError):
    """A field of the spec can't be met; the message names the field, the value and the remedy."""

    exit_code = 78
    reason = "ConfigError"


class ArtifactError(DataError):
    """An artifact is absent, torn, or does not match its manifest."""

    reason = "ArtifactError"
