"""The pipeline of a ProofDataset: source → rows → stages → splits → shards → one Parquet file a split → manifest.

It streams: a shard of rows is all that is held at once. Shards are published one by one in `work/`, so a build killed
at any moment goes on from the last complete shard, and what comes out has the same digest as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qednano import __version__, artifacts, metrics
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data import shards
from qednano.data.pipeline import Outcome, run_stages
from qednano.data.report import card, stage_metrics, write_reports
from qednano.data.schema import SCHEMA, ProblemRow
from qednano.data.shards import Build
from qednano.data.sources import Record, content_sha256, file_records, generated_rows, hub_commit, hub_records, row_of
from qednano.data.split import Ledger
from qednano.data.stages import stages_of
from qednano.errors import DataError


@dataclass(frozen=True)
class SplitPlan:
    """One split: its name, how many rows it gets, and its rows from any position on."""

    name: str
    count: int
    rows_from: Callable[[int], Iterator[ProblemRow]]


def build_dataset(spec: ProofDatasetSpec, name: str, build: Build) -> artifacts.Manifest:
    """Make `artifact/` of a ProofDataset, or finish what an earlier attempt began; returns its manifest.

    Raises DataError (a file, line or column; too few problems), ConfigError, Unavailable, Stopped, Fenced.
    """
    if (build.artifact / artifacts.MANIFEST).exists():
        return artifacts.verify(build.artifact)
    build.reporter.update(stage="inputs", unit="problem")
    inputs = _inputs(spec)
    _open_work(build, spec, inputs)
    plans, stages = _plans(spec, inputs, build)
    total = sum(plan.count for plan in plans)
    done = 0
    for plan in plans:
        build.reporter.update(stage=f"split {plan.name}", step=done, total=total)
        _write_shards(plan, done, build)
        done += plan.count
    build.reporter.update(stage="closing", step=done)
    return _close(spec, name, inputs, plans, stages, build)


def _inputs(spec: ProofDatasetSpec) -> dict[str, Any]:
    """What the rows are made from, each with what pins it: a file's sha256, a Hub dataset's commit."""
    uris = list(spec.source.files.uris) if spec.source.files is not None else []
    if spec.stages is not None and spec.stages.decontaminate is not None:
        uris += [benchmark.uri for benchmark in spec.stages.decontaminate.benchmarks]
    inputs: dict[str, Any] = {uri: {"sha256": content_sha256(uri)} for uri in uris}
    if spec.source.hub is not None:
        inputs[f"hf://{spec.source.hub.id}"] = {"commit": hub_commit(spec.source.hub)}
    return inputs


def _open_work(build: Build, spec: ProofDatasetSpec, inputs: dict[str, Any]) -> None:
    """Keep the shards of an earlier attempt only if they were made from the same inputs by the same code."""
    made_from = {
        "spec": spec.model_dump(mode="json", by_alias=True, include={"source", "columns", "stages", "splits", "seed"}),
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


def _plans(spec: ProofDatasetSpec, inputs: dict[str, Any], build: Build) -> tuple[list[SplitPlan], Outcome | None]:
    """The splits, and what the stages did if the spec has any."""
    if spec.source.generator is not None:
        return _generator_plans(spec), None
    records = _records_of(spec, inputs)

    def rows() -> Iterator[ProblemRow]:
        return (row_of(record, spec.columns) for record in records())

    if spec.stages is None:
        return _row_plans(spec, rows, build), None
    outcome = run_stages(stages_of(spec.stages), rows, build.work / ".stages", build)
    return _row_plans(spec, outcome.rows, build), outcome


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


def _row_plans(spec: ProofDatasetSpec, rows: Callable[[], Iterator[ProblemRow]], build: Build) -> list[SplitPlan]:
    """Go through the rows once to check each and to draw the splits."""

    ledger = Ledger(spec.seed)
    build.reporter.update(stage="drawing splits")
    for row in build.watched(rows()):
        ledger.add(row.problem, row.id)
    metrics.ROWS.labels("draw", "ok").inc(len(ledger))
    selections = ledger.select([split.problems for split in spec.splits])

    def rows_from(positions: NDArray[np.int64]) -> Callable[[int], Iterator[ProblemRow]]:
        return lambda start: _at(rows(), positions[start:])

    return [
        SplitPlan(split.name, split.problems, rows_from(positions))
        for split, positions in zip(spec.splits, selections, strict=True)
    ]


def _at(rows: Iterator[ProblemRow], positions: NDArray[np.int64]) -> Iterator[ProblemRow]:
    """The rows at the positions (from 0, ascending); nothing is read beyond the last."""
    before = -1
    for position in positions.tolist():
        yield from islice(rows, position - before - 1, position - before)
        before = position


def _write_shards(plan: SplitPlan, before: int, build: Build) -> None:
    """Write what is missing of one split, shard by shard; `before` rows of other splits are done."""
    folder = build.work / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    done = shards.complete(folder)
    written, number = shards.count(done), len(done)
    if written >= plan.count:
        return
    watched = build.watched(plan.rows_from(written), before + written)
    for rows in shards.batches(islice(watched, plan.count - written)):
        build.check_fence()
        shards.publish(folder / f"part-{number:06d}.parquet", rows)
        metrics.ROWS.labels("write", "ok").inc(len(rows))
        number += 1
        written += len(rows)
    if written != plan.count:
        raise DataError(
            f"the source gave {written} of the {plan.count} rows of split {plan.name}: it changed while it was read; "
            "run again"
        )


def _close(
    spec: ProofDatasetSpec,
    name: str,
    inputs: dict[str, Any],
    plans: list[SplitPlan],
    stages: Outcome | None,
    build: Build,
) -> artifacts.Manifest:
    """Join each split's shards into one file, close the folder with its manifest, and publish it."""
    with artifacts.staging(build.artifact) as folder:
        for plan in plans:
            with pq.ParquetWriter(folder / f"{plan.name}.parquet", SCHEMA, compression="zstd") as writer:
                for shard in shards.complete(build.work / plan.name):
                    writer.write_table(pq.read_table(shard, schema=SCHEMA))
                    build.check_stop()
        splits = {plan.name: plan.count for plan in plans}
        tallies = stages.tallies if stages is not None else {}
        (folder / "README.md").write_text(card(spec, splits, tallies, inputs), encoding="utf-8")
        if stages is not None:
            write_reports(folder / "reports", stages)
        manifest = artifacts.write_manifest(
            folder,
            kind="ProofDataset",
            name=name,
            spec=spec.model_dump(mode="json", by_alias=True),
            inputs=inputs,
            seeds={"seed": spec.seed},
            metrics={f"problems/{split}": count for split, count in splits.items()} | stage_metrics(tallies),
        )
        build.check_fence()
        artifacts.publish(folder, build.artifact)
    shutil.rmtree(build.work, ignore_errors=True)
    return manifest
