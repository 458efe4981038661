"""Runs the stages of a ProofDataset over shards on disk, so that a build killed at any moment goes on from there.

`work/.stages/<number>-<name>/part-000000.parquet` are the rows that a stage let through, one file for each of the stage
before; `.json` beside it is what it counted and `.jsonl` what it dropped. The Parquet file is published last: where it
is, the other two are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from qednano import artifacts, metrics
from qednano.data import shards
from qednano.data.schema import ProblemRow
from qednano.data.shards import Build
from qednano.data.stages import Stage, Tally
from qednano.errors import DataError

_COMPLETE = "complete.json"
READ = "read"


@dataclass(frozen=True)
class Outcome:
    """What the stages left: the folder of the last one, and each stage's tally by its name, in order."""

    folder: Path
    tallies: dict[str, Tally]
    folders: dict[str, Path]

    def rows(self) -> Iterator[ProblemRow]:
        """The rows that all stages let through, in the order of the source."""
        return shards.read(self.folder)


def run_stages(stages: list[Stage], source: Callable[[], Iterator[ProblemRow]], folder: Path, build: Build) -> Outcome:
    """Read the source into shards and send them through the stages, or finish what an earlier attempt began."""
    names = [READ, *(stage.name for stage in stages)]
    folders = {name: folder / f"{number}-{name}" for number, name in enumerate(names)}
    tallies = {READ: _read(source, folders[READ], build)}
    for before, stage in zip(names, stages, strict=False):
        tallies[stage.name] = _run_stage(stage, folders[before], folders[stage.name], tallies[before].rows_out, build)
    return Outcome(folders[names[-1]], tallies, folders)


def _read(source: Callable[[], Iterator[ProblemRow]], folder: Path, build: Build) -> Tally:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _COMPLETE
    if not mark.exists():
        done = shards.complete(folder)
        written = shards.count(done)
        build.reporter.update(stage=READ, step=written)
        rows = islice(source(), written, None)
        for number, batch in enumerate(shards.batches(build.watched(rows, written)), start=len(done)):
            build.check_fence()
            shards.publish(folder / f"part-{number:06d}.parquet", batch)
            metrics.ROWS.labels(READ, "ok").inc(len(batch))
            written += len(batch)
        artifacts.write_json(mark, {"rows": written})
    rows_read = int(json.loads(mark.read_text())["rows"])
    return Tally(rows_read, rows_read)


def _run_stage(stage: Stage, before: Path, folder: Path, total: int, build: Build) -> Tally:
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    waiting = shards.complete(before)
    done = [shard for shard in waiting if (folder / shard.name).exists()]
    for shard in done:
        tally.add(_tally_of(folder / shard.name))
    build.reporter.update(stage=stage.name, step=tally.rows_in, total=total)
    if len(done) < len(waiting):
        stage.prepare(lambda: shards.read(before), build.check_stop)
    for shard in waiting[len(done) :]:
        with pq.ParquetFile(shard) as file:
            rows = [ProblemRow(**values) for values in file.read().to_pylist()]
        part, kept = Tally(rows_in=len(rows)), list[ProblemRow]()
        for row in build.watched(rows, tally.rows_in):
            left = stage.apply(tally.rows_in + len(kept) + len(part.log), row, part)
            if left is not None:
                kept.append(left)
        part.rows_out = len(kept)
        if part.rows_out + len(part.log) != part.rows_in:
            raise DataError(f"stage {stage.name} lost rows of {shard.name} without saying why: report this as a bug")
        build.check_fence()
        _publish_part(folder / shard.name, kept, part)
        tally.add(part)
        _count(stage.name, part, tally, build)
        build.check_stop()
    return tally


def _publish_part(path: Path, rows: list[ProblemRow], tally: Tally) -> None:
    log = "".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in tally.log)
    artifacts.write_atomic(path.with_suffix(".jsonl"), log)
    artifacts.write_json(
        path.with_suffix(".json"),
        {"rows_in": tally.rows_in, "rows_out": tally.rows_out, "counts": tally.counts, "examples": tally.examples},
    )
    shards.publish(path, rows)


def _tally_of(shard: Path) -> Tally:
    values = json.loads(shard.with_suffix(".json").read_text(encoding="utf-8"))
    return Tally(values["rows_in"], values["rows_out"], Counter(values["counts"]), values["examples"])


def _count(name: str, part: Tally, tally: Tally, build: Build) -> None:
    metrics.ROWS.labels(name, "ok").inc(part.rows_out)
    for cause, count in part.counts.items():
        if cause.startswith("dropped "):
            metrics.ROWS.labels(name, cause).inc(count)
    build.reporter.update(
        step=tally.rows_in, metrics={f"rows/{name}/in": tally.rows_in, f"rows/{name}/out": tally.rows_out}
    )
