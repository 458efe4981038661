"""From `spec.grader` to a grader: one row of a table per kind of grader and per checker."""

from __future__ import annotations

from collections.abc import Callable

from qednano.api.grader import Grader as GraderSpec
from qednano.errors import ConfigError
from qednano.grading.checker import TinyDivisibility
from qednano.grading.interface import Grader

CHECKERS: dict[str, Callable[[], Grader]] = {TinyDivisibility.name: TinyDivisibility}


def grader_for(spec: GraderSpec) -> Grader:
    """The grader that `spec.grader` asks for. Raises ConfigError for a checker that isn't installed."""
    if spec.checker is None:
        raise ConfigError("spec.grader.checker is not set: name a checker, such as tiny-divisibility")
    try:
        return CHECKERS[spec.checker.name]()
    except KeyError:
        known = ", ".join(sorted(CHECKERS))
        raise ConfigError(f"spec.grader.checker.name is {spec.checker.name!r}: use one of {known}") from None
