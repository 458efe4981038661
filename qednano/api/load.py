"""Read manifests from files and folders and explain every mistake: where, what, and what to write instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from qednano.api.common import API_VERSION, DECIMAL_PATTERN
from qednano.api.kinds import KINDS, Run
from qednano.errors import ConfigError


@dataclass(frozen=True)
class Mistake:
    """One mistake of a manifest. ``line`` counts from 1; ``path`` is the field, such as spec.source.files."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class InvalidManifest(ConfigError):
    """Manifests with mistakes; ``mistakes`` has them all."""

    reason = "InvalidManifest"

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


@dataclass(frozen=True)
class Document:
    """One run of a manifest file, and where it stands."""

    file: str
    line: int
    run: Run


def load_documents(paths: Iterable[Path]) -> list[Document]:
    """Every run of the files and folders (``*.yaml``, ``*.yml``, ``*.json``, sorted). Raises InvalidManifest."""
    documents: list[Document] = []
    mistakes: list[Mistake] = []
    for file in _files(paths, mistakes):
        before = len(documents), len(mistakes)
        documents += _parse(file, mistakes)
        if before == (len(documents), len(mistakes)):
            mistakes.append(Mistake(str(file), 1, "", "the file has no manifest; write one, or leave the file out"))
    _unique(documents, mistakes)
    if mistakes:
        raise InvalidManifest(mistakes)
    return documents


def _files(paths: Iterable[Path], mistakes: list[Mistake]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(child for child in path.iterdir() if child.suffix in (".yaml", ".yml", ".json"))
            if not found:
                mistakes.append(Mistake(str(path), 1, "", "the folder has no .yaml, .yml or .json file"))
            yield from found
        elif path.is_file():
            yield path
        else:
            mistakes.append(Mistake(str(path), 1, "", "there is no such file or folder"))


def _unique(documents: list[Document], mistakes: list[Mistake]) -> None:
    seen: dict[tuple[str, str, str], Document] = {}
    for document in documents:
        key = (document.run.kind, document.run.metadata.namespace, document.run.metadata.name)
        first = seen.setdefault(key, document)
        if first is not document:
            mistakes.append(
                Mistake(
                    document.file,
                    document.line,
                    "metadata.name",
                    f"{key[0]} {key[2]} is already defined at {first.file}:{first.line}; give one another name",
                )
            )


def _parse(file: Path, mistakes: list[Mistake]) -> list[Document]:
    try:
        return list(_documents(file, mistakes))
    except RecursionError:
        mistakes.append(Mistake(str(file), 1, "", "nests too deeply, or has an alias inside its own anchor"))
        return []


def _documents(file: Path, mistakes: list[Mistake]) -> Iterator[Document]:
    try:
        nodes = list(yaml.compose_all(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        mistakes.append(Mistake(str(file), line, "", f"is not YAML: {error.problem or error.context}"))
        return
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mistakes.append(Mistake(str(file), 1, "", f"is not YAML: {error}"))
        return
    for node in nodes:
        if node is None:
            continue
        try:
            value = yaml.SafeLoader("").construct_document(node)
        except yaml.MarkedYAMLError as error:
            line = (error.problem_mark or node.start_mark).line + 1
            mistakes.append(Mistake(str(file), line, "", f"is not YAML: {error.problem}"))
            continue
        if value is None:
            continue
        lines = _Lines(node)
        kind = _kind(value, lines, str(file), mistakes)
        if kind is None:
            continue
        found = explain(kind, value)
        if found:
            mistakes += [Mistake(str(file), lines.at(path), _dotted(path), text) for path, text in found]
        else:
            yield Document(str(file), lines.at(()), kind.model_validate(value))


class _Lines:
    """Where each field of a document stands."""

    def __init__(self, node: yaml.Node) -> None:
        self._lines: dict[tuple[str | int, ...], int] = {(): node.start_mark.line + 1}
        self._walk(node, ())

    def _walk(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                here = (*path, str(key.value))
                self._lines[here] = key.start_mark.line + 1
                self._walk(child, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(node.value):
                self._lines[(*path, index)] = child.start_mark.line + 1
                self._walk(child, (*path, index))

    def at(self, path: tuple[str | int, ...]) -> int:
        """Line of the field, or of its nearest parent."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word nearest to ``word``, or the known words, as a clause."""
    words = list(known)
    lower = {item.lower(): item for item in words}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    if close:
        return f"did you mean {lower[close[0]]}?"
    return f"known are {', '.join(words)}"


def _kind(value: Any, lines: _Lines, file: str, mistakes: list[Mistake]) -> type[Run] | None:
    def mistake(path: tuple[str | int, ...], message: str) -> None:
        mistakes.append(Mistake(file, lines.at(path), _dotted(path), message))

    if not isinstance(value, dict):
        mistake((), "a manifest is a mapping with apiVersion, kind, metadata and spec")
        return None
    version, kind = value.get("apiVersion"), value.get("kind")
    if version != API_VERSION:
        mistake(("apiVersion",), f"is {version!r}; write {API_VERSION}")
        return None
    if not isinstance(kind, str) or kind not in KINDS:
        mistake(("kind",), f"is {kind!r}; {nearest(str(kind), KINDS)}")
        return None
    return KINDS[kind]


def explain(kind: type[Run], value: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Every mistake of a manifest as (field path, sentence with the value and the remedy)."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        return [_sentence(kind, dict(item)) for item in error.errors()]
    return []


def _fields(model: type[BaseModel]) -> dict[str, tuple[Any, str]]:
    return {
        field.alias or to_camel(name): (field.annotation, field.description or "")
        for name, field in model.model_fields.items()
    }


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        for argument in typing.get_args(annotation):
            found = _model_of(argument)
            if found:
                return found
    return None


def _model_at(kind: type[Run], path: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = kind
    for part in path:
        if isinstance(part, int):
            continue
        if model is None or part not in _fields(model):
            return None
        model = _model_of(_fields(model)[part][0])
    return model


def _sentence(kind: type[Run], error: dict[str, Any]) -> tuple[tuple[str | int, ...], str]:
    path = tuple(error["loc"])
    value, type_, context = error.get("input"), error["type"], error.get("ctx", {})
    parent = _model_at(kind, path[:-1])
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "…"
    if type_ == "extra_forbidden":
        return path, f"there is no such field; {nearest(str(path[-1]), _fields(parent) if parent else ())}"
    if type_ == "missing":
        about = _fields(parent)[str(path[-1])][1] if parent and str(path[-1]) in _fields(parent) else ""
        return path, f"is required{': ' + about[0].lower() + about[1:] if about else ''}"
    if type_ == "enum" or type_ == "literal_error":
        known = [item.strip(" '") for item in str(context.get("expected", "")).replace(" or ", ",").split(",")]
        return path, f"is {shown}; {nearest(str(value), [item for item in known if item])}"
    if type_ == "value_error":
        return path, str(context.get("error", error["msg"]))
    if type_ == "string_pattern_mismatch":
        return path, f"is {shown}, which {_pattern(str(context.get('pattern', '')))}"
    bounds = {
        "greater_than_equal": ("ge", "must be at least"),
        "less_than_equal": ("le", "must be at most"),
        "string_too_long": ("max_length", "may have at most this many characters:"),
        "string_too_short": ("min_length", "must have at least this many characters:"),
        "too_long": ("max_length", "may have at most this many items:"),
        "too_short": ("min_length", "must have at least this many items:"),
    }
    if type_ in bounds:
        name, words = bounds[type_]
        return path, f"is {shown}; it {words} {context.get(name)}"
    wanted = {
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "string_type": "a text (in quotes)",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "list_type": "a list",
        "model_type": "a mapping of fields",
        "dict_type": "a mapping of fields",
    }
    if type_ in wanted:
        return path, f"is {shown}; it must be {wanted[type_]}"
    return path, f"is {shown}: {error['msg']}"


def _pattern(pattern: str) -> str:
    if pattern == DECIMAL_PATTERN:
        return 'is not a decimal in quotes, such as "0.8"'
    if pattern.startswith("^[a-z]("):
        return "is not a name: use a-z, 0-9 and '-', start with a letter and end with a letter or digit"
    if "Ki|" in pattern:
        return 'is not a quantity, such as "500m", "2" or "4Gi"'
    if pattern == r"^\S+$":
        return "has a space in it"
    alternatives = pattern.strip("^$").strip("()?")
    return f"is not one of: {alternatives.replace('|', ', ')}"
