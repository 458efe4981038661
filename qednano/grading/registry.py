"""From `spec.grader` to a grader: one row of a table per kind of grader and per checker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from qednano.api.grader import Grader as GraderSpec
from qednano.errors import ConfigError
from qednano.grading.checker import TinyDivisibility
from qednano.grading.interface import Grader
from qednano.llm.chat import ChatModel

CHECKERS: dict[str, Callable[[], Grader]] = {TinyDivisibility.name: TinyDivisibility}


def below(models: Mapping[str, ChatModel], field: str) -> dict[str, ChatModel]:
    """The models below one field, by their paths relative to it: grader/rubric/model becomes rubric/model."""
    return {path.removeprefix(f"{field}/"): model for path, model in models.items() if path.startswith(f"{field}/")}


def grader_for(spec: GraderSpec, models: Mapping[str, ChatModel] = MappingProxyType({})) -> Grader:
    """The grader that `spec.grader` asks for; `models` are those it may ask, by their paths relative to the grader.

    Raises ConfigError for what isn't there: a checker, a model, an entry point.
    """
    if spec.checker is None:
        raise ConfigError("spec.grader.checker is not set: name a checker, such as tiny-divisibility")
    try:
        return CHECKERS[spec.checker.name]()
    except KeyError:
        known = ", ".join(sorted(CHECKERS))
        raise ConfigError(f"spec.grader.checker.name is {spec.checker.name!r}: use one of {known}") from None
