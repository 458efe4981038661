"""From `spec.grader` to a grader: one row of a table per kind of grader and per checker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from qednano.api.grader import Checker, FinalAnswerGrader, GraderPart, Mixture, RubricGrader
from qednano.api.grader import Grader as GraderSpec
from qednano.errors import ConfigError
from qednano.grading import entry_point
from qednano.grading.checker import TinyDivisibility
from qednano.grading.final_answer import FinalAnswerMarker
from qednano.grading.guard import Guarded
from qednano.grading.interface import Grader
from qednano.grading.mixture import Mixed, Part
from qednano.grading.rubric_grader import RubricMarker
from qednano.llm.chat import ChatModel

Models = Mapping[str, ChatModel]

CHECKERS: dict[str, Callable[[], Grader]] = {TinyDivisibility.name: TinyDivisibility}


def below(models: Models, field: str) -> dict[str, ChatModel]:
    """The models below one field, by their paths relative to it: grader/rubric/model becomes rubric/model."""
    return {path.removeprefix(f"{field}/"): model for path, model in models.items() if path.startswith(f"{field}/")}


def grader_for(spec: GraderSpec, models: Models = MappingProxyType({})) -> Grader:
    """The grader that `spec.grader` asks for; `models` are those it may ask, by their paths relative to the grader.

    Raises ConfigError for what isn't there: a checker, a model, an entry point.
    """
    return Guarded(_one_of(spec, models), spec.timeout_seconds, spec.canary_percent)


def _one_of(spec: GraderSpec | GraderPart, models: Models) -> Grader:
    for field, make in MAKERS.items():
        value = getattr(spec, field, None)
        if value is not None:
            return make(value, models)
    raise ConfigError(f"spec.grader: none of {', '.join(MAKERS)} is set")


def _checker(spec: Checker, models: Models) -> Grader:
    try:
        return CHECKERS[spec.name]()
    except KeyError:
        known = ", ".join(sorted(CHECKERS))
        raise ConfigError(f"spec.grader.checker.name is {spec.name!r}: use one of {known}") from None


def _rubric(spec: RubricGrader, models: Models) -> Grader:
    return RubricMarker(spec, _model(models, "rubric/model"))


def _final_answer(spec: FinalAnswerGrader, models: Models) -> Grader:
    return FinalAnswerMarker(spec, None if spec.model is None else _model(models, "finalAnswer/model"))


def _mixture(spec: Mixture, models: Models) -> Grader:
    return Mixed(
        {
            part.name: Part(_one_of(part, below(models, f"mixture/parts/{number}")), float(part.weight))
            for number, part in enumerate(spec.parts)
        }
    )


MAKERS: dict[str, Callable[[Any, Models], Grader]] = {
    "checker": _checker,
    "rubric": _rubric,
    "final_answer": _final_answer,
    "entry_point": lambda spec, models: entry_point.grader_of(spec),
    "mixture": _mixture,
}
"""Which field of the spec makes which grader."""


def _model(models: Models, path: str) -> ChatModel:
    try:
        return models[path]
    except KeyError:
        raise ConfigError(
            f"spec.grader.{path.replace('/', '.')} is not open: this run was given no such model"
        ) from None
