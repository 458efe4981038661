"""A grader of one's own: a Python object by the name of its factory."""

from __future__ import annotations

import importlib
import inspect

from qednano.api.grader import EntryPointGrader
from qednano.errors import ConfigError
from qednano.grading.interface import Grader


def grader_of(spec: EntryPointGrader) -> Grader:
    """What the factory returns. Raises ConfigError for a name, options or a result that don't fit, and says which."""
    module, _, path = spec.name.partition(":")
    try:
        factory = importlib.import_module(module)
        for part in path.split("."):
            factory = getattr(factory, part)
    except ImportError as error:
        raise ConfigError(
            f"entryPoint.name is {spec.name!r}, but {module} can't be imported ({error}): is it in the worker image?"
        ) from error
    except AttributeError:
        raise ConfigError(f"entryPoint.name is {spec.name!r}, but {module} has no {path}") from None
    try:
        grader = factory(**spec.options)  # type: ignore[operator]
    except Exception as error:
        raise ConfigError(
            f"entryPoint {spec.name} can't be made with options {dict(spec.options)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(grader, Grader) or not inspect.iscoroutinefunction(grader.grade):
        raise ConfigError(
            f"entryPoint {spec.name} returns {type(grader).__name__}, which is no qednano.grading.interface.Grader: it "
            "needs name, async grade(problem, proof, *, cut_off) and async close()"
        )
    if "cut_off" not in inspect.signature(grader.grade).parameters:
        raise ConfigError(f"entryPoint {spec.name}: its grade() has no keyword cut_off")
    return grader
