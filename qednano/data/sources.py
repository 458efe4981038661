"""Where rows come from: a generator, files, or a dataset on the Hub. Each is read as a stream, never as a whole.

A source gives records in a fixed order, each with the place it came from, so that an error can name the line. Files are
JSONL, CSV or Parquet by any fsspec uri; `.gz` and the like are unpacked on the way.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from qednano.api.proofdataset import Columns, Generator, HubSource
from qednano.data.schema import ProblemRow
from qednano.data.split import normalised
from qednano.errors import ConfigError, DataError, Unavailable
from qednano.tiny import problems, teacher
from qednano.tiny.checker import SCHEME

csv.field_size_limit(1 << 27)  # a solution may be far longer than the default of 128 KiB


@dataclass(frozen=True)
class Record:
    """One record as the source has it, and where: `rows.jsonl line 17`."""

    where: str
    values: Mapping[str, Any]


def generated_rows(generator: Generator, *, seed: int, fold: str, skip: int, count: int) -> Iterator[ProblemRow]:
    """Rows `skip` to `skip + count` of the generator's fold; each row depends on the seed and its position only."""
    stream = problems.generate(
        seed,
        skip + count,
        fold=fold,
        families=generator.families or problems.FAMILIES,
        min_difficulty=generator.difficulty.min,
        max_difficulty=generator.difficulty.max,
    )
    for problem in islice(stream, skip, None):
        yield _generated_row(generator, problem, seed)


def _generated_row(generator: Generator, problem: problems.Problem, seed: int) -> ProblemRow:
    rng = random.Random(f"{seed}:{problem.id}")  # of its own, so that a row doesn't depend on the rows before it
    return ProblemRow(
        id=problem.id,
        problem=problem.text,
        solutions=[
            teacher.write(problem, rng, generator.flawed_percent) for _ in range(generator.solutions_per_problem)
        ],
        rubric=json.dumps([{"step": step, "points": points} for step, points in SCHEME]),
        reference=teacher.write(problem, rng),
        difficulty=problem.difficulty,
        source=generator.name,
        meta=json.dumps({"family": problem.family, "fold": problem.fold, "key": problem.key}, sort_keys=True),
    )


def file_records(uris: list[str]) -> Iterator[Record]:
    """Every record of the files, in order. Raises DataError that names the file, and the line or row."""
    for uri in uris:
        yield from _reader(uri)(uri)


def content_sha256(uri: str) -> str:
    """The sha256 of a file's bytes as they are stored, read in pieces of one MiB. DataError if it is absent."""
    digest = hashlib.sha256()
    with _opened(uri, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _absent(uri: str) -> DataError:
    return DataError(f"{uri} doesn't exist: check spec.source.files.uris, and that the file is on the run's volume")


def _reader(uri: str) -> Any:
    suffixes = [suffix for suffix in PurePosixPath(uri).suffixes if suffix not in (".gz", ".bz2", ".xz", ".zst")]
    try:
        return {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv}[suffixes[-1] if suffixes else ""]
    except KeyError:
        raise DataError(f"{uri} is not a .jsonl, .parquet or .csv file (spec.source.files.uris)") from None


@contextmanager
def _opened(uri: str, mode: str, **options: Any) -> Iterator[Any]:
    try:
        with fsspec.open(uri, mode, **options) as file:
            yield file
    except FileNotFoundError:
        raise _absent(uri) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not UTF-8 ({error.reason} at byte {error.start} of a block)") from None


def _read_jsonl(uri: str) -> Iterator[Record]:
    name = PurePosixPath(uri).name
    with _opened(uri, "rt", compression="infer", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{name} line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is not JSON ({error})") from None
            if not isinstance(values, dict):
                raise DataError(f"{where} is not a JSON object: each line must be one, with the columns as its keys")
            yield Record(where, values)


def _read_csv(uri: str) -> Iterator[Record]:
    name = PurePosixPath(uri).name
    with _opened(uri, "rt", compression="infer", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                where = f"{name} line {reader.line_num}"
                if None in values:
                    raise DataError(f"{where} has more fields than the header has columns")
                yield Record(where, values)
        except csv.Error as error:
            raise DataError(f"{name} line {reader.line_num} is not CSV ({error})") from None


def _read_parquet(uri: str) -> Iterator[Record]:
    name = PurePosixPath(uri).name
    with _opened(uri, "rb") as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise DataError(f"{uri} can't be read as Parquet: {error}") from None
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{name} row {number}", values)


def hub_commit(source: HubSource) -> str:
    """The commit that the revision stands for now; the revision itself for a folder on this machine.

    Raises ConfigError when the Hub has no such dataset or revision, Unavailable when it doesn't answer.
    """
    if Path(source.id).is_dir():
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(source.id, revision=source.revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise ConfigError(
            f"spec.source.hub: the Hub has no dataset {source.id} at {source.revision}, or HF_TOKEN may not read it"
        ) from None
    except Exception as error:  # which HTTP library the Hub's client raises from differs between its versions
        raise _silent(source, error) from error


def hub_records(source: HubSource, commit: str) -> Iterator[Record]:
    """Every record of a Hub dataset's split at a commit, streamed.

    Raises ConfigError for a split that isn't there, Unavailable when the Hub doesn't answer.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(source.id, revision=commit, split=source.split, streaming=True)
        for number, values in enumerate(rows, start=1):
            yield Record(f"{PurePosixPath(source.id).name}[{source.split}] row {number}", values)
    except ValueError as error:  # `datasets` says so for an unknown split or configuration
        raise ConfigError(f"spec.source.hub: {source.id} has no split {source.split!r} ({error})") from None
    except Exception as error:
        raise _silent(source, error) from error


def _silent(source: HubSource, error: Exception) -> Unavailable:
    return Unavailable(
        f"the Hugging Face Hub does not answer for {source.id} ({type(error).__name__}: {error}); is it reachable?"
    )


def row_of(record: Record, columns: Columns) -> ProblemRow:
    """One record as a row of the schema. Raises DataError that names the place and the column.

    A column left at its default name may be absent; one that the spec names must be there. Without an id the row is
    named by its problem's content.
    """
    problem = _text(record, columns, "problem")
    if problem is None or not problem.strip():
        raise DataError(
            f"{record.where} has no {columns.problem!r}: name the column that holds the problem in "
            f"spec.columns.problem (there is: {', '.join(map(repr, list(record.values)[:20]))})"
        )
    difficulty = record.values.get("difficulty")
    return ProblemRow(
        id=_text(record, columns, "id") or "p-" + hashlib.sha256(normalised(problem).encode()).hexdigest()[:16],
        problem=problem,
        solutions=_solutions(record, columns),
        answer=_text(record, columns, "answer"),
        rubric=_text(record, columns, "rubric"),
        reference=_text(record, columns, "reference"),
        difficulty=difficulty if isinstance(difficulty, int) and 0 <= difficulty < 2**31 else 0,
        source=record.where,
    )


def _value(record: Record, columns: Columns, role: str) -> Any:
    name = getattr(columns, role)
    if not name:
        return None
    if name not in record.values and name != Columns.model_fields[role].default:
        raise DataError(
            f"{record.where} has no {name!r}, which spec.columns.{role} names "
            f"(there is: {', '.join(map(repr, list(record.values)[:20]))})"
        )
    return record.values.get(name)


def _text(record: Record, columns: Columns, role: str) -> str | None:
    """The value as text; numbers are written out, and structures (a rubric, say) as JSON."""
    value = _value(record, columns, role)
    if value is None or isinstance(value, str):
        return value or None
    if role == "problem":
        raise DataError(f"{record.where}: {columns.problem!r} is {type(value).__name__}, not text")
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _solutions(record: Record, columns: Columns) -> list[str]:
    value = _value(record, columns, "solution")
    if not value:
        return []
    solutions = [value] if isinstance(value, str) else value
    if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
        raise DataError(f"{record.where}: {columns.solution!r} is neither text nor a list of texts")
    return [solution for solution in solutions if solution.strip()]
