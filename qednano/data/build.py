"""The pipeline of a ProofDataset: source → rows → splits → shards → one Parquet file a split → manifest.

It streams: a shard of rows is all that is held at once. Shards are published one by one in `work/`, so a build killed
at any moment goes on from the last complete shard, and what comes out has the same digest as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qednano import __version__, artifacts, metrics
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data.schema import SCHEMA, ProblemRow, to_table
from qednano.data.sources import Record, content_sha256, file_records, generated_rows, hub_commit, hub_records, row_of
from qednano.data.split import Ledger
from qednano.errors import DataError
from qednano.progress import Reporter

SHARD_ROWS = 2000
SHARD_CHARACTERS = 1 << 26
_STOP_EVERY = 200  # rows between two looks at whether to stop


@dataclass(frozen=True)
class SplitPlan:
    """One split: its name, how many rows it gets, and its rows from any position on."""

    name: str
    count: int
    rows_from: Callable[[int], Iterator[ProblemRow]]


@dataclass(frozen=True)
class Build:
    """Where a build writes, to whom it reports, and what it asks before it goes on."""

    run_dir: Path
    reporter: Reporter
    check_stop: Callable[[], None]  # raises Stopped
    check_fence: Callable[[], None]  # raises Fenced

    @property
    def work(self) -> Path:
        return self.run_dir / "work"

    @property
    def artifact(self) -> Path:
        return self.run_dir / "artifact"


def build_dataset(spec: ProofDatasetSpec, name: str, build: Build) -> artifacts.Manifest:
    """Make `artifact/` of a ProofDataset, or finish what an earlier attempt began; returns its manifest.

    Raises DataError (a file, line or column; too few problems), ConfigError, Unavailable, Stopped, Fenced.
    """
    if (build.artifact / artifacts.MANIFEST).exists():
        return artifacts.verify(build.artifact)
    build.reporter.update(stage="inputs", unit="problem")
    inputs = _inputs(spec)
    _open_work(build, spec, inputs)
    plans = _plans(spec, inputs, build)
    total = sum(plan.count for plan in plans)
    done = 0
    for plan in plans:
        build.reporter.update(stage=f"split {plan.name}", step=done, total=total)
        _write_shards(plan, done, build)
        done += plan.count
    build.reporter.update(stage="closing", step=done)
    return _close(spec, name, inputs, plans, build)


def _inputs(spec: ProofDatasetSpec) -> dict[str, Any]:
    """What the rows are made from, each with what pins it: a file's sha256, a Hub dataset's commit."""
    if spec.source.files is not None:
        return {uri: {"sha256": content_sha256(uri)} for uri in spec.source.files.uris}
    if spec.source.hub is not None:
        return {f"hf://{spec.source.hub.id}": {"commit": hub_commit(spec.source.hub)}}
    return {}


def _open_work(build: Build, spec: ProofDatasetSpec, inputs: dict[str, Any]) -> None:
    """Keep the shards of an earlier attempt only if they were made from the same inputs by the same code."""
    made_from = {
        "spec": spec.model_dump(mode="json", by_alias=True, include={"source", "columns", "splits", "seed"}),
        "inputs": inputs,
        "code": [__version__, pa.__version__],
    }
    fingerprint = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    mark = build.work / "made-from"
    if mark.exists() and mark.read_text() == fingerprint:
        return
    build.check_fence()
    shutil.rmtree(build.work, ignore_errors=True)
    artifacts.write_atomic(mark, fingerprint)


def _plans(spec: ProofDatasetSpec, inputs: dict[str, Any], build: Build) -> list[SplitPlan]:
    if spec.source.generator is not None:
        return _generator_plans(spec)
    return _record_plans(spec, _records_of(spec, inputs), build)


def _generator_plans(spec: ProofDatasetSpec) -> list[SplitPlan]:
    """Splits of one fold follow one another in its stream, so none overlap; folds are disjoint by construction."""
    generator = spec.source.generator
    assert generator is not None
    taken = {"train": 0, "heldout": 0}

    def rows_from(fold: str, offset: int, count: int) -> Callable[[int], Iterator[ProblemRow]]:
        return lambda start: generated_rows(
            generator, seed=spec.seed, fold=fold, skip=offset + start, count=count - start
        )

    plans = []
    for split in spec.splits:
        fold = "heldout" if split.held_out else "train"
        plans.append(SplitPlan(split.name, split.problems, rows_from(fold, taken[fold], split.problems)))
        taken[fold] += split.problems
    return plans


def _records_of(spec: ProofDatasetSpec, inputs: dict[str, Any]) -> Callable[[], Iterator[Record]]:
    """A function that reads the source from its start, as often as it is called."""
    if spec.source.files is not None:
        uris = spec.source.files.uris
        return lambda: file_records(uris)
    hub = spec.source.hub
    assert hub is not None
    commit = inputs[f"hf://{hub.id}"]["commit"]
    return lambda: hub_records(hub, commit)


def _record_plans(spec: ProofDatasetSpec, records: Callable[[], Iterator[Record]], build: Build) -> list[SplitPlan]:
    """Read the source once to check each record and to draw the splits."""

    ledger = Ledger(spec.seed)
    build.reporter.update(stage="reading")
    for record in records():
        read = row_of(record, spec.columns)
        ledger.add(read.problem, read.id)
        if len(ledger) % _STOP_EVERY == 0:
            build.check_stop()
            build.reporter.update(step=len(ledger))
    metrics.ROWS.labels("read", "ok").inc(len(ledger))
    selections = ledger.select([split.problems for split in spec.splits])

    def rows_from(positions: NDArray[np.int64]) -> Callable[[int], Iterator[ProblemRow]]:
        return lambda start: (row_of(record, spec.columns) for record in _at(records(), positions[start:]))

    return [
        SplitPlan(split.name, split.problems, rows_from(positions))
        for split, positions in zip(spec.splits, selections, strict=True)
    ]


def _at(records: Iterator[Record], positions: NDArray[np.int64]) -> Iterator[Record]:
    """The records at the positions (from 0, ascending); nothing is read beyond the last."""
    before = -1
    for position in positions.tolist():
        yield from islice(records, position - before - 1, position - before)
        before = position


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _write_shards(plan: SplitPlan, before: int, build: Build) -> None:
    """Write what is missing of one split, shard by shard; `before` rows of other splits are done."""
    folder = build.work / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(folder)
    written = sum(pq.read_metadata(shard).num_rows for shard in shards)
    number = len(shards)
    if written >= plan.count:
        return
    watched = _watched(plan.rows_from(written), build, before + written)
    for rows in _batches(islice(watched, plan.count - written)):
        build.check_fence()
        _publish_shard(folder / f"part-{number:06d}.parquet", rows)
        metrics.ROWS.labels("write", "ok").inc(len(rows))
        number += 1
        written += len(rows)
    if written != plan.count:
        raise DataError(
            f"the source gave {written} of the {plan.count} rows of split {plan.name}: it changed while it was read; "
            "run again"
        )


def _watched(rows: Iterator[ProblemRow], build: Build, step: int) -> Iterator[ProblemRow]:
    """The same rows; in passing, progress is reported and a stop is noticed."""
    for number, row in enumerate(rows, start=1):
        yield row
        if number % _STOP_EVERY == 0:
            build.reporter.update(step=step + number)
            build.check_stop()


def _batches(rows: Iterable[ProblemRow]) -> Iterator[list[ProblemRow]]:
    """Rows in shards: cut by number and by size, both of which depend on the rows alone."""
    batch: list[ProblemRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.problem) + len(row.reference or "") + sum(map(len, row.solutions))
        if len(batch) >= SHARD_ROWS or size >= SHARD_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _publish_shard(path: Path, rows: list[ProblemRow]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(to_table(rows), partial, compression="zstd")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _close(
    spec: ProofDatasetSpec, name: str, inputs: dict[str, Any], plans: list[SplitPlan], build: Build
) -> artifacts.Manifest:
    """Join each split's shards into one file, close the folder with its manifest, and publish it."""
    with artifacts.staging(build.artifact) as folder:
        for plan in plans:
            with pq.ParquetWriter(folder / f"{plan.name}.parquet", SCHEMA, compression="zstd") as writer:
                for shard in _shards(build.work / plan.name):
                    writer.write_table(pq.read_table(shard, schema=SCHEMA))
                    build.check_stop()
        manifest = artifacts.write_manifest(
            folder,
            kind="ProofDataset",
            name=name,
            spec=spec.model_dump(mode="json", by_alias=True),
            inputs=inputs,
            seeds={"seed": spec.seed},
            metrics={f"problems/{plan.name}": plan.count for plan in plans},
        )
        build.check_fence()
        artifacts.publish(folder, build.artifact)
    shutil.rmtree(build.work, ignore_errors=True)
    return manifest
