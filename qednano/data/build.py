"""The pipeline of a ProofDataset: sources → rows → stages → splits → shards → one Parquet file a split → manifest.

It streams: a shard of rows is all that is held at once. Shards are published one by one in `work/`, so a build killed
at any moment goes on from the last complete shard, and what comes out has the same digest as if it had never stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qednano import artifacts, metrics
from qednano.api.proofdataset import KeepTogether, ProofDatasetSpec
from qednano.data import shards
from qednano.data.card import card
from qednano.data.pipeline import Outcome, run_stages
from qednano.data.publish import publish
from qednano.data.report import stage_metrics, write_reports
from qednano.data.reuse import fingerprint, take
from qednano.data.schema import SCHEMA, ProblemRow
from qednano.data.shards import Build
from qednano.data.sources import HELD_OUT, TRAIN, Pins, generated_rows, origin, pins, rows_of
from qednano.data.split import Ledger, Wanted
from qednano.data.stages import near_duplicates, stages_of
from qednano.errors import DataError

_DRAW = "draw.npz"


@dataclass(frozen=True)
class SplitPlan:
    """One split: its name, how many rows it gets, and its rows from any position on."""

    name: str
    count: int
    rows_from: Callable[[int], Iterator[ProblemRow]]


def build_dataset(spec: ProofDatasetSpec, name: str, build: Build) -> artifacts.Manifest:
    """Make `artifact/` of a ProofDataset, or finish what an earlier attempt began; returns its manifest.

    What an equal dataset of the namespace has made is taken instead (`qednano.data.reuse`).

    Then push it to the Hub, if the spec says so. Raises DataError (a file, line or column; too few problems),
    ConfigError, Unavailable, Stopped, Fenced.
    """
    if (build.artifact / artifacts.MANIFEST).exists():
        manifest = artifacts.verify(build.artifact)
    else:
        manifest = _made(spec, name, build)
    publish(spec, manifest, build)
    return manifest


def _made(spec: ProofDatasetSpec, name: str, build: Build) -> artifacts.Manifest:
    build.reporter.update(stage="inputs", unit="problem")
    inputs = {**pins(spec), **build.models}
    plain = spec.model_dump(mode="json", by_alias=True)
    taken = take(plain, name, inputs, build)
    if taken is not None:
        shutil.rmtree(build.work, ignore_errors=True)
        return taken
    _open_work(build, fingerprint(plain, inputs))
    plans, stages = _plans(spec, inputs, build)
    total = sum(plan.count for plan in plans)
    if stages is None:
        made = {"rows/in": total} if all(source.generator for source in spec.sources) else {}
        build.reporter.update(metrics={**made, "rows/out": total})
    done = 0
    for plan in plans:
        build.reporter.update(stage=f"split {plan.name}", step=done, total=total)
        _write_shards(plan, done, build)
        done += plan.count
    build.reporter.update(stage="closing", step=done)
    return _close(spec, name, inputs, plans, stages, build)


def _open_work(build: Build, made_from: str) -> None:
    """Keep the shards of an earlier attempt only if they were made from the same inputs by the same code."""
    mark = build.work / "made-from"
    if mark.exists() and mark.read_text() == made_from:
        return
    build.check_fence()
    shutil.rmtree(build.work, ignore_errors=True)
    artifacts.write_atomic(mark, made_from)


def _plans(spec: ProofDatasetSpec, inputs: Pins, build: Build) -> tuple[list[SplitPlan], Outcome | None]:
    """The splits, and what the stages did; None where a generator made each split's rows and no more."""
    if len(spec.sources) == 1 and spec.sources[0].generator is not None and not spec.stages:
        return _generator_plans(spec), None
    stages = stages_of(spec.stages, spec.seed)
    outcome = run_stages(stages, rows_of(spec, inputs), build.work / ".stages", build)
    return _drawn_plans(spec, outcome, build), outcome


def _generator_plans(spec: ProofDatasetSpec) -> list[SplitPlan]:
    """Splits of one fold follow one another in its stream, so none overlap; folds are disjoint by construction."""
    generator = spec.sources[0].generator
    assert generator is not None
    sizes = _generated_sizes(spec, generator.problems)
    taken = {TRAIN: 0, HELD_OUT: 0}

    def rows_from(fold: str, offset: int, count: int) -> Callable[[int], Iterator[ProblemRow]]:
        return lambda start: generated_rows(
            generator, seed=spec.seed, fold=fold, skip=offset + start, count=count - start
        )

    plans = []
    for split, size in zip(spec.splits, sizes, strict=True):
        fold = HELD_OUT if split.held_out else TRAIN
        plans.append(SplitPlan(split.name, size, rows_from(fold, taken[fold], size)))
        taken[fold] += size
    return plans


def _generated_sizes(spec: ProofDatasetSpec, problems: int | None) -> list[int]:
    """Rows of each split, of `problems` of each fold; the spec gives that number where a split has none."""
    sizes = []
    for split in spec.splits:
        if split.problems is not None:
            sizes.append(split.problems)
        elif split.percent is not None:
            sizes.append((problems or 0) * split.percent // 100)
        else:
            others = [other for other in spec.splits if other.held_out == split.held_out and other is not split]
            left = sum(other.problems or (problems or 0) * (other.percent or 0) // 100 for other in others)
            sizes.append((problems or 0) - left)
    for held_out in (False, True):
        used = sum(size for split, size in zip(spec.splits, sizes, strict=True) if split.held_out == held_out)
        if problems is not None and (used > problems or min(sizes) < 1):
            raise DataError(
                f"the splits take {used} problems of a fold and the generator makes {problems}: raise its problems, "
                "or ask for fewer in spec.splits"
            )
    return sizes


def _drawn_plans(spec: ProofDatasetSpec, outcome: Outcome, build: Build) -> list[SplitPlan]:
    """Draw the splits from the rows that the stages left; a draw that is done is read again."""
    draw = build.work / _DRAW
    if not draw.exists():
        _draw(spec, outcome, build)
    with np.load(draw) as drawn:
        selections = {split.name: drawn[split.name] for split in spec.splits}

    def rows_from(positions: NDArray[np.int64]) -> Callable[[int], Iterator[ProblemRow]]:
        return lambda start: _at(outcome, positions[start:])

    return [SplitPlan(name, len(positions), rows_from(positions)) for name, positions in selections.items()]


def _draw(spec: ProofDatasetSpec, outcome: Outcome, build: Build) -> None:
    """Go through the rows once, twice if wordings of a problem are to be kept together, and write who gets which."""
    ledger = Ledger(spec.seed, [source.name for source in spec.sources])
    build.reporter.update(stage="drawing splits", step=0, total=outcome.count)
    for row in build.watched(outcome.rows()):
        source, fold = origin(row)
        ledger.add(row.problem, row.id, source, fold == HELD_OUT)
    metrics.ROWS.labels("draw", "ok").inc(len(ledger))
    groups: list[list[int]] = []
    if len(spec.splits) > 1 and spec.keep_together is KeepTogether.NEAR_DUPLICATES and not _deduplicated(spec):
        groups = near_duplicates((row.problem for row in build.watched(outcome.rows())), build.check_stop)
    weights = {source.name: source.weight for source in spec.sources if source.weight is not None}
    selections = ledger.select(
        [Wanted(split.name, split.problems, split.percent, split.held_out) for split in spec.splits],
        groups=groups,
        weights=weights,
    )
    build.check_fence()
    partial = build.work / f".{_DRAW}"
    with partial.open("wb") as file:
        arrays: dict[str, Any] = {split.name: rows for split, rows in zip(spec.splits, selections, strict=True)}
        np.savez(file, **arrays)
    partial.replace(build.work / _DRAW)


def _deduplicated(spec: ProofDatasetSpec) -> bool:
    """Whether a stage has left one row of every problem already, and none after it has changed a statement."""
    for stage in reversed(spec.stages):
        if stage.deduplicate is not None:
            return stage.deduplicate.similarity_percent <= 70
        if stage.normalise is not None:
            return False
    return False


def _at(outcome: Outcome, positions: NDArray[np.int64]) -> Iterator[ProblemRow]:
    """The rows at the positions (from 0, ascending); nothing is read before the first or beyond the last."""
    if not len(positions):
        return
    before = int(positions[0]) - 1
    rows = outcome.rows(int(positions[0]))
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
        raise DataError(f"split {plan.name} got {written} of its {plan.count} rows: report this as a bug")


def _close(
    spec: ProofDatasetSpec,
    name: str,
    inputs: Pins,
    plans: Sequence[SplitPlan],
    stages: Outcome | None,
    build: Build,
) -> artifacts.Manifest:
    """Join each split's shards into one file, close the folder with its manifest, and publish it."""
    with artifacts.staging(build.artifact) as folder:
        for plan in plans:
            _join(shards.complete(build.work / plan.name), folder / f"{plan.name}.parquet", build)
        splits = {plan.name: plan.count for plan in plans}
        tallies = stages.tallies if stages is not None else {}
        (folder / "README.md").write_text(card(spec, splits, tallies, inputs), encoding="utf-8")
        if stages is not None:
            write_reports(folder, splits, stages)
            for stage, rows in stages.folders.items():
                if parked := sorted(rows.glob("parked-*.parquet")):
                    (folder / "parked").mkdir(exist_ok=True)
                    _join(parked, folder / "parked" / f"{stage}.parquet", build)
        told: dict[str, Any] = {f"problems/{split}": count for split, count in splits.items()}
        manifest = artifacts.write_manifest(
            folder,
            kind="ProofDataset",
            name=name,
            spec=spec.model_dump(mode="json", by_alias=True),
            inputs=dict(inputs),
            seeds={"seed": spec.seed},
            metrics=told | stage_metrics(tallies),
        )
        build.check_fence()
        artifacts.publish(folder, build.artifact)
    shutil.rmtree(build.work, ignore_errors=True)
    return manifest


def _join(parts: Sequence[Path], target: Path, build: Build) -> None:
    """One Parquet file of several."""
    with pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        for shard in parts:
            writer.write_table(pq.read_table(shard, schema=SCHEMA))
            build.check_stop()
