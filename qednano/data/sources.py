"""Where rows come from: a generator, files, or a dataset on the Hub. Each is read as a stream, never as a whole.

A source gives its rows in a fixed order, each with the place it came from, so that an error can name the line.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from qednano.api.benchmarks import BENCHMARKS
from qednano.api.proofdataset import (
    Columns,
    ContaminationBenchmark,
    Generator,
    HubSource,
    ProofDatasetSpec,
    Source,
)
from qednano.data import hub
from qednano.data.columns import Record, row_of
from qednano.data.files import Files
from qednano.data.schema import ProblemRow
from qednano.errors import DataError
from qednano.tiny import problems, teacher
from qednano.tiny.checker import SCHEME

TRAIN, HELD_OUT = "train", "heldout"
"""The folds of a generator, as rows have them in their meta."""

Pins = Mapping[str, Mapping[str, str]]
"""What a dataset is made from: of each file its sha256 or ETag, of each Hub dataset its commit."""


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


def needed(spec: ProofDatasetSpec, fold: str) -> int:
    """How many problems of a fold the splits ask for by number."""
    return sum(split.problems or 0 for split in spec.splits if split.held_out == (fold == HELD_OUT))


def pins(spec: ProofDatasetSpec) -> dict[str, dict[str, str]]:
    """What the rows and the benchmarks are made from, looked up now.

    Raises DataError (a file is absent), ConfigError (no such dataset on the Hub), Unavailable.
    """
    found: dict[str, dict[str, str]] = {}
    for source in spec.sources:
        if source.files is not None:
            files = Files(source.files.store, _field(source))
            found |= {uri: files.pin(uri) for uri in files.found(source.files.uris)}
        elif source.hub is not None:
            found[_hub_name(source.hub)] = {"commit": hub.commit_of(source.hub)}
    for stage in spec.stages:
        for benchmark in stage.decontaminate.benchmarks if stage.decontaminate is not None else ():
            if benchmark.uri is not None:
                files = Files(field=f"benchmark {benchmark.name}")
                found |= {uri: files.pin(uri) for uri in files.found([benchmark.uri])}
            else:
                found |= {_hub_name(dataset): {"commit": hub.commit_of(dataset)} for dataset in _datasets(benchmark)}
    return found


def _field(source: Source) -> str:
    return f"files.uris of source {source.name}"


def _hub_name(source: HubSource) -> str:
    return f"hf://{source.id}@{source.revision}"


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source of the spec, from its start as often as `read` is called."""

    name: str
    read: Callable[[], Iterator[ProblemRow]]


def rows_of(spec: ProofDatasetSpec, found: Pins) -> list[SourceRows]:
    """Each source's rows, of the files and commits that `pins` found."""
    return [SourceRows(source.name, _reader(spec, source, found)) for source in spec.sources]


def _reader(spec: ProofDatasetSpec, source: Source, found: Pins) -> Callable[[], Iterator[ProblemRow]]:
    def records() -> Iterator[Record]:
        if source.files is not None:
            return Files(source.files.store, _field(source)).records(source.files.uris)
        assert source.hub is not None
        return hub.records(source.hub, found[_hub_name(source.hub)]["commit"])

    if source.generator is not None:
        return lambda: _generated(spec, source)
    return lambda: (row_of(record, source.columns, source.name) for record in records())


def _generated(spec: ProofDatasetSpec, source: Source) -> Iterator[ProblemRow]:
    generator = source.generator
    assert generator is not None
    for fold in (TRAIN, HELD_OUT):
        wanted = needed(spec, fold) or any(split.held_out == (fold == HELD_OUT) for split in spec.splits)
        if not wanted:
            continue
        count = generator.problems or needed(spec, fold)
        for row in generated_rows(generator, seed=spec.seed, fold=fold, skip=0, count=count):
            yield _placed(row, source.name)


def _placed(row: ProblemRow, source: str) -> ProblemRow:
    from qednano.data.stage import with_meta

    return with_meta(row, **{"from": source})


def benchmark_rows(benchmark: ContaminationBenchmark) -> Iterator[ProblemRow]:
    """The problems of a benchmark, from its file or from the Hub. DataError, ConfigError or Unavailable."""
    columns = Columns(problem=benchmark.column, id=benchmark.id_column)
    if benchmark.uri is not None:
        found: Iterator[Record] = Files(field=f"benchmark {benchmark.name}").records([benchmark.uri])
    else:
        found = (record for dataset in _datasets(benchmark) for record in hub.records(dataset, hub.commit_of(dataset)))
    empty = True
    for record in found:
        empty = False
        yield row_of(record, columns)
    if empty:
        raise DataError(f"benchmark {benchmark.name} of a decontaminate stage has no statements: check its uri")


def _datasets(benchmark: ContaminationBenchmark) -> list[HubSource]:
    if benchmark.hub is not None:
        return [benchmark.hub]
    known = BENCHMARKS[benchmark.name]
    return [HubSource(id=known.hub, split=split) for split in known.splits]


def origin(row: ProblemRow) -> tuple[str, str]:
    """Which source of the spec a row came from, and of which fold of a generator; each '' if it doesn't say."""
    meta: Any = json.loads(row.meta or "{}")
    return str(meta.get("from", "")), str(meta.get("fold", ""))
