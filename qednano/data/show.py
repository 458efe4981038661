"""Rows of a dataset as a person reads them: a few at a time, long texts cut, LaTeX as it is.

Rows come from strangers, so nothing in them may steer a terminal: what is not a printable character is shown by its
code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from qednano.api.proofdataset import Columns
from qednano.data.columns import row_of
from qednano.data.files import Files
from qednano.data.schema import ProblemRow
from qednano.errors import UsageError

CUT = 1200  # characters of a text that are shown
_LIST = 2  # solutions of a row that are shown
_SUFFIXES = (".parquet", ".jsonl", ".csv", ".gz", ".bz2", ".xz", ".zst")


def split_file(path: Path, split: str = "") -> Path:
    """The file that is meant: itself, or the split's in the folder of a run or an artifact. UsageError without one."""
    if path.is_file():
        return path
    folder = path / "artifact" if (path / "artifact").is_dir() else path
    files = sorted(file for file in folder.glob("*") if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        raise UsageError(f"{path} has no rows to show: give a file of rows, or the folder of a finished ProofDataset")
    if not split:
        return next((file for file in files if file.stem == "train"), files[0])
    for file in files:
        if split in (file.name, file.stem):
            return file
    raise UsageError(f"{path} has no split {split!r}; it has: {', '.join(file.stem for file in files)}")


def rows_of(path: Path, start: int = 0, count: int | None = None, identifier: str = "") -> Iterator[ProblemRow]:
    """`count` rows from position `start` on (None: all), or the one with an id. DataError for another kind of file."""
    rows = (row_of(record, Columns()) for record in Files(field="the path").records([str(path)]))
    if identifier:
        rows = (row for row in rows if row.id == identifier)
    yield from islice(rows, start, None if count is None else start + count)


def printable(text: str) -> str:
    """The text without characters that a terminal obeys or that can't be printed; line ends and tabs stay."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )


def cut(text: str, most: int) -> str:
    """The text's start, and how much was left out; 0 cuts nothing."""
    if not most or len(text) <= most:
        return text
    return f"{text[:most].rstrip()} … ({len(text) - most:,} more characters)"


def as_json(row: ProblemRow) -> dict[str, Any]:
    """The whole row, with its meta and its marking scheme as structures where they are."""
    found = asdict(row)
    for name in ("meta", "rubric"):
        with suppress(ValueError):  # a marking scheme in prose
            found[name] = json.loads(found[name]) if found[name] else found[name]
    return found


def print_row(console: Console, row: ProblemRow, most: int = CUT) -> None:
    """Print a row: `most` characters of each text, 0 for all. Lines are wrapped on a terminal only."""
    for text in _parts(row, most):
        console.print(text, soft_wrap=not console.is_terminal)


def _parts(row: ProblemRow, most: int) -> Iterator[Text]:
    yield Text(f"── {printable(row.id)} ──", style="bold")
    yield Text(printable(" · ".join(_facts(row))), style="dim")
    yield _text(row.problem, most)
    for title, text in (("answer", row.answer), ("official solution", row.reference), ("marking scheme", row.rubric)):
        if text:
            yield Text(title, style="bold cyan")
            yield _text(_indented(text) if title == "marking scheme" else text, most)
    for number, solution in enumerate(row.solutions[: _LIST if most else None]):
        grade = row.scores[number] if number < len(row.scores) else None
        title = f"solution {number + 1} of {len(row.solutions)}" + ("" if grade is None else f", {grade:g}/7")
        if number < len(row.reasoning) and row.reasoning[number]:
            yield Text(f"thinking before {title}", style="bold cyan")
            yield _text(row.reasoning[number], most)
        yield Text(title, style="bold cyan")
        yield _text(solution, most)
    if most and len(row.solutions) > _LIST:
        yield Text(f"and {len(row.solutions) - _LIST} more solutions (--full shows them)\n", style="dim")
    if row.candidates:
        graded = [f"{item.score:g}" for item in row.candidates if item.score is not None]
        told = f"{len(row.candidates)} candidates" + (f", graded {', '.join(graded)}" if graded else "")
        yield Text(f"{told}\n", style="dim")


def _facts(row: ProblemRow) -> list[str]:
    facts = [row.source] if row.source else []
    if row.difficulty:
        facts.append(f"difficulty {row.difficulty}")
    if row.mean_reward is not None:
        facts.append(f"mean reward {row.mean_reward:.3g}" + (f" of {row.attempts}" if row.attempts else ""))
    if row.pass_rate is not None:
        facts.append(f"pass rate {row.pass_rate:.3g}")
    meta = json.loads(row.meta or "{}")
    return facts + [f"{name} {value}" for name, value in sorted(meta.items()) if isinstance(value, str | int | float)]


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


def _text(text: str, most: int) -> Text:
    return Text(printable(cut(text.strip(), most)) + "\n")


def console() -> Console:
    """A console that takes nothing in a row for markup."""
    return Console(markup=False, highlight=False, emoji=False)
