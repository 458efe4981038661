"""The problems of an evaluation, from wherever they are, and the parts that scores are split into."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qednano.api.benchmark import Benchmark
from qednano.api.benchmarks import BENCHMARKS
from qednano.api.proofdataset import Columns
from qednano.data.columns import Record, row_of
from qednano.data.files import Files
from qednano.data.schema import ProblemRow
from qednano.errors import DataError
from qednano.evals import hub_rows

_SETS = {"PB-Basic-": "Basic", "PB-Advanced-": "Advanced"}  # how IMO-ProofBench names its two halves


def problems_of(spec: Benchmark, path: Path | None, run_dir: Path) -> list[ProblemRow]:
    """The problems that `spec.benchmark` names; `path` is the resolved file of a proofDataset or uri.

    The commit of a Hub dataset is kept in the run's folder, so that a later attempt reads the same rows.
    """
    pins = run_dir / "benchmark-commit.json"
    if spec.known is not None:
        known = BENCHMARKS[spec.known]
        columns = spec.columns.model_copy(update={"meta": [*known.meta, *spec.columns.meta]})
        found = hub_rows.records(hub_rows.known_sources(known, spec.revision), pins)
        return _unique(found, columns, spec.limit, f"benchmark {spec.known}", merge=True)
    if spec.hub is not None:
        return _unique(hub_rows.records([spec.hub], pins), spec.columns, spec.limit, f"hub {spec.hub.id}")
    assert path is not None, "a proofDataset or uri is resolved before the job starts"
    return load(path, spec.limit, spec.columns)


def load(path: Path, limit: int = 0, columns: Columns | None = None) -> list[ProblemRow]:
    """The first `limit` problems (0: all) of a Parquet, JSONL or CSV file.

    Raises DataError when there is none or an id occurs twice.
    """
    found = Files(field="benchmark.uri").records([str(path)])
    return _unique(found, columns or Columns(), limit, str(path))


def _unique(found: Iterable[Record], columns: Columns, limit: int, where: str, merge: bool = False) -> list[ProblemRow]:
    problems: dict[str, ProblemRow] = {}
    for record in found:
        row = _with_set(row_of(record, columns))
        if row.id in problems:
            if merge and problems[row.id].problem == row.problem:
                continue
            raise DataError(f"{where} has the id {row.id!r} twice; scores are kept by id, so give each problem its own")
        if limit and len(problems) == limit:
            break
        problems[row.id] = row
    if not problems:
        raise DataError(f"{where} has no problems; there is nothing to evaluate on")
    return list(problems.values())


def _with_set(row: ProblemRow) -> ProblemRow:
    for prefix, name in _SETS.items():
        if row.id.startswith(prefix):
            return replace(row, meta=json.dumps(json.loads(row.meta) | {"set": name}, sort_keys=True))
    return row


def splits_of(spec: Benchmark, problems: Sequence[ProblemRow]) -> dict[str, dict[str, str]]:
    """For each problem its value in each column that scores are split by; a column it lacks is left out."""
    columns = spec.split_by or (BENCHMARKS[spec.known].split_by if spec.known else ())
    found = {}
    for row in problems:
        values = {column: _value(row, column) for column in columns}
        found[row.id] = {column: str(value) for column, value in values.items() if value not in (None, "")}
    return found


def _value(row: ProblemRow, path: str) -> Any:
    value: Any = json.loads(row.meta or "{}")
    if path in ("source", "difficulty"):
        return getattr(row, path)
    for part in path.split("."):
        if isinstance(value, str):  # a structure that was kept as JSON
            try:
                value = json.loads(value)
            except ValueError:
                return None
        value = value.get(part) if isinstance(value, dict) else None
    return None if isinstance(value, dict | list) else value
