"""Reads an EvalRun's artifact as a page needs it: numbers of all samples at once, the texts of one sample at a time.

results.parquet may hold gigabytes of proofs and traces. Its numeric columns are read once and kept as arrays; a text
is read from the one row group that holds it. Columns that an older artifact lacks are filled with "unknown".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qednano.artifacts import MANIFEST, Manifest, read_manifest
from qednano.errors import DataError
from qednano.grading.interface import FULL_SCORE

_NUMBERS = ("score", "prompt_tokens", "completion_tokens", "seconds", "calls", "failed_calls", "cost")
_LIGHT = ("model", "problem", "index", *_NUMBERS, "finish_reason", "stop")
_CALL_TEXTS = ("messages", "text", "reasoning")
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Samples:
    """Columns of all samples, in the order of the file; NaN where a number is unknown or a grade is missing."""

    models: list[str]
    problems: list[str]
    model: NDArray[np.int32]  # place in `models`
    problem: NDArray[np.int32]  # place in `problems`
    index: NDArray[np.int32]
    numbers: dict[str, NDArray[np.float64]]
    cut_off: NDArray[np.bool_]
    stop: list[str]

    @property
    def score(self) -> NDArray[np.float64]:
        """0..7."""
        return self.numbers["score"]

    @cached_property
    def rows(self) -> dict[tuple[int, int], list[int]]:
        """Row numbers of each (model, problem), by sample index."""
        found: dict[tuple[int, int], list[int]] = {}
        for row in np.lexsort((self.index, self.problem, self.model)):
            found.setdefault((int(self.model[row]), int(self.problem[row])), []).append(int(row))
        return found

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """[model, problem]: mean share (0 to 1) over graded samples, NaN without any."""
        shape = len(self.models), len(self.problems)
        graded = ~np.isnan(self.score)
        flat = (self.model.astype(np.int64) * shape[1] + self.problem)[graded]
        count = np.bincount(flat, minlength=shape[0] * shape[1])
        total = np.bincount(flat, weights=self.score[graded] / FULL_SCORE, minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return (total / count).reshape(shape)

    def row(self, model: str, problem: str, index: int) -> int | None:
        """The row number of a sample, None when there is no such sample."""
        if model not in self.models or problem not in self.problems:
            return None
        rows = self.rows.get((self.models.index(model), self.problems.index(problem)), [])
        return next((row for row in rows if self.index[row] == index), None)


class EvaluationReader:
    """One artifact. Safe to use from several threads; opens files only while it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def manifest(self) -> Manifest:
        """Raises ArtifactError when the folder is not a finished artifact."""
        return read_manifest(self.folder)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """scores.json, {} when there is none."""
        return read_scores(self.folder)

    @cached_property
    def _results(self) -> pq.FileMetaData:
        return _metadata(self.folder / "results.parquet")

    @cached_property
    def samples(self) -> Samples:
        """The numbers of all samples."""
        path = self.folder / "results.parquet"
        present = set(self._results.schema.to_arrow_schema().names)
        table = pq.read_table(path, columns=[name for name in _LIGHT if name in present])
        rows = table.num_rows
        models, model = _coded(table["model"])
        problems, problem = _coded(table["problem"])
        numbers = {
            name: table[name].cast(pa.float64()).to_numpy() if name in present else np.full(rows, np.nan)
            for name in _NUMBERS
        }
        return Samples(
            models,
            problems,
            model,
            problem,
            table["index"].cast(pa.int32()).to_numpy(),
            numbers,
            pc.fill_null(pc.equal(table["finish_reason"], "length"), False).to_numpy(),
            table["stop"].to_pylist() if "stop" in present else [""] * rows,
        )

    def sample(self, row: int) -> dict[str, Any]:
        """All columns of one sample."""
        found = _one_row(self.folder / "results.parquet", self._results, row, None)
        defaults: dict[str, Any] = {"reasoning": "", "notes": "", "path": "", "stop": "", "details": "{}"}
        return defaults | {name: value for name, value in found.items() if value is not None or name not in defaults}

    def texts(self, column: str, rows: Sequence[int]) -> dict[int, str]:
        """One text column of some rows, each row group read once."""
        path, wanted, start, found = self.folder / "results.parquet", sorted(set(rows)), 0, {}
        with pq.ParquetFile(path, metadata=self._results) as file:
            for group in range(self._results.num_row_groups):
                count = self._results.row_group(group).num_rows
                here = [row for row in wanted if start <= row < start + count]
                if here:
                    values = file.read_row_group(group, columns=[column])[column]
                    found |= {row: values[row - start].as_py() or "" for row in here}
                start += count
        return found

    def search(self, words: str, column: str = "proof", limit: int = 500) -> list[int]:
        """Rows whose text has the words, in any case; reads no more of the file than it needs for `limit` of them."""
        rows: list[int] = []
        start = 0
        with pq.ParquetFile(self.folder / "results.parquet", metadata=self._results) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE * 4, columns=[column]):
                hits = pc.match_substring(batch.column(0), words, ignore_case=True)
                rows += [start + int(place) for place in np.flatnonzero(pc.fill_null(hits, False))]
                start += batch.num_rows
                if len(rows) >= limit:
                    break
        return rows[:limit]

    # -- problems ---------------------------------------------------------------------------------------------------

    @cached_property
    def problems(self) -> Mapping[str, dict[str, Any]]:
        """Statement, difficulty, source and meta (as a dict) of each problem by its id; {} where they weren't kept."""
        path = self._problems_path
        if path is None:
            return {}
        present = set(_metadata(path).schema.to_arrow_schema().names)
        columns = [name for name in ("id", "problem", "difficulty", "source", "meta") if name in present]
        known = set(self.samples.problems)
        rows = pq.read_table(path, columns=columns).to_pylist()
        return {row["id"]: row | {"meta": _object(row.get("meta"))} for row in rows if row["id"] in known}

    def problem(self, identity: str) -> dict[str, Any]:
        """All columns of one problem; only its id where problems weren't kept."""
        path = self._problems_path
        if path is not None:
            rows = pq.read_table(path, filters=[("id", "==", identity)]).to_pylist()
            if rows:
                return dict(rows[0]) | {"meta": _object(rows[0].get("meta"))}
        return {"id": identity, "problem": "", "rubric": None, "reference": None, "answer": None, "meta": {}}

    @cached_property
    def _problems_path(self) -> Path | None:
        kept = self.folder / "problems.parquet"
        if kept.is_file():
            return kept
        if not (self.folder / MANIFEST).is_file():
            return None
        benchmark = self.manifest.inputs.get("benchmark") or {}
        path = Path(str(benchmark.get("uri", "")).removeprefix("file://"))
        return path if path.suffix == ".parquet" and path.is_file() else None

    def category(self, identity: str) -> str:
        """By what tables group the problem: its category, or its level; "" if it has neither."""
        meta = self.problems.get(identity, {}).get("meta", {})
        return next((str(meta[name]) for name in ("category", "level", "subject", "domain") if meta.get(name)), "")

    # -- calls ------------------------------------------------------------------------------------------------------

    @property
    def has_calls(self) -> bool:
        """Whether the calls were kept."""
        return (self.folder / "calls.parquet").is_file()

    def calls(self, model: str, problem: str, index: int) -> list[dict[str, Any]]:
        """The calls of one sample in the order of asking, without what was said."""
        if not self.has_calls:
            return []
        path = self.folder / "calls.parquet"
        light = [name for name in _metadata(path).schema.to_arrow_schema().names if name not in _CALL_TEXTS]
        rows = pq.read_table(path, columns=light, filters=_of(model, problem, index)).to_pylist()
        return sorted(rows, key=lambda row: row["number"])

    def call(self, model: str, problem: str, index: int, number: int) -> dict[str, Any] | None:
        """One call with all that was said."""
        if not self.has_calls:
            return None
        filters = [*_of(model, problem, index), ("number", "==", number)]
        rows = pq.read_table(self.folder / "calls.parquet", filters=filters).to_pylist()
        return rows[0] if rows else None


def read_scores(folder: Path) -> dict[str, Any]:
    """scores.json of an artifact, baselines in the order of the models; {} when there is none. Raises DataError."""
    path = folder / "scores.json"
    try:
        found = json.loads(path.read_bytes())
        names = [model["name"] for model in found["models"]]
        compared = found["comparisons"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read as scores ({error!r}); run the evaluation again") from None
    return dict(found) | {"comparisons": {name: compared[name] for name in names if name in compared}}


def _of(model: str, problem: str, index: int) -> list[tuple[str, str, Any]]:
    return [("model", "==", model), ("problem", "==", problem), ("index", "==", index)]


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except FileNotFoundError:
        raise DataError(f"{path} doesn't exist: the folder is not the artifact of an EvalRun") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} can't be read as Parquet: {error}") from None


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Distinct values in order of appearance, and each row's place among them."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()


def _one_row(path: Path, metadata: pq.FileMetaData, row: int, columns: list[str] | None) -> dict[str, Any]:
    with pq.ParquetFile(path, metadata=metadata) as file:
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if row < count:
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=columns):
                    if row < batch.num_rows:
                        return dict(batch.slice(row, 1).to_pylist()[0])
                    row -= batch.num_rows
            row -= count
    raise DataError(f"{path} has no such row")


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def tree(calls: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, Mapping[str, Any] | None]]:
    """(depth, path, call) of a sample's calls as a tree, parents first; the call is None for a bare branch."""
    by_path = {call["path"]: call for call in calls}
    children: dict[str, list[str]] = {}
    seen: set[str] = set()
    for call in calls:
        steps = call["path"].split("/")
        for depth in range(1, len(steps) + 1):
            path = "/".join(steps[:depth])
            if path not in seen:
                seen.add(path)
                children.setdefault("/".join(steps[: depth - 1]), []).append(path)
    stack = [(0, path) for path in reversed(children.get("", []))]
    while stack:
        depth, path = stack.pop()
        yield depth, path, by_path.get(path)
        stack += [(depth + 1, child) for child in reversed(children.get(path, []))]
