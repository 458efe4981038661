"""Prompts are files: `qednano/prompts/<area>/<name>.md`, Jinja over the values that the caller gives."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qednano.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "prompts"
_TICKS = re.compile(r"`{3,}")


def fenced(text: object) -> str:
    """`text` between marks that it can't close, since they are longer than any run of backticks in it."""
    inner = str(text)
    marks = "`" * max([3, *(len(run) + 1 for run in _TICKS.findall(inner))])
    return f"{marks}\n{inner}\n{marks}"


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters["fenced"] = fenced


@lru_cache(maxsize=256)
def _template(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)


@lru_cache(maxsize=256)
def _built_in(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def render(name: str, override: str = "", /, **values: object) -> str:
    """The prompt `name` (area/name), or `override` in its place, with the values filled in.

    Values are inserted as they are and never read as templates; `{{ value | fenced }}` puts one between marks that it
    can't close. Raises ConfigError for a template that can't be rendered with them.
    """
    try:
        return _template(override or _built_in(name)).render(values).strip()
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        where = f"the prompt given in place of {name}" if override else f"the prompt {name}"
        raise ConfigError(f"{where} can't be rendered ({error}); it may use {', '.join(sorted(values))}") from None
