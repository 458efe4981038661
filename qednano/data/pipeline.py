"""Runs the stages of a ProofDataset over shards on disk, so that a build killed at any moment goes on from there.

`work/.stages/<number>-<name>/part-000000.parquet` are rows that a stage let through; `.json` beside it is what it
counted and `.jsonl` what it dropped meanwhile. The Parquet file is published last: where it is, the other two are. How
many rows of the stage before are done is the sum of what the shards have counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from qednano import artifacts, metrics
from qednano.data import shards
from qednano.data.schema import ProblemRow
from qednano.data.shards import Build
from qednano.data.sources import SourceRows, origin
from qednano.data.stage import Reordering, Stage, StageWork, Tally
from qednano.errors import DataError

_COMPLETE = "complete.json"
READ = "read"

Apply = Callable[[int, ProblemRow, Tally], ProblemRow | None]


@dataclass(frozen=True)
class Outcome:
    """What the stages left: the folder of the last one, and each stage's tally and folder by its name, in order."""

    folder: Path
    tallies: dict[str, Tally]
    folders: dict[str, Path]

    def rows(self, start: int = 0) -> Iterator[ProblemRow]:
        """The rows that all stages let through, in order."""
        return shards.read(self.folder, start)

    @property
    def count(self) -> int:
        """How many rows these are."""
        return list(self.tallies.values())[-1].rows_out


def run_stages(stages: Sequence[Stage], sources: Sequence[SourceRows], folder: Path, build: Build) -> Outcome:
    """Read the sources into shards and send them through the stages, or finish what an earlier attempt began."""
    names = [READ, *(stage.name for stage in stages)]
    folders = {name: folder / f"{number}-{name}" for number, name in enumerate(names)}
    tallies = {READ: _read(sources, folders[READ], build)}
    rows_in = tallies[READ].rows_out
    build.reporter.update(metrics={"rows/in": rows_in, "rows/out": rows_in})
    for before, stage in zip(names, stages, strict=False):
        work = StageWork(partial(shards.read, folders[before]), tallies[before].rows_out, folders[stage.name], build)
        tallies[stage.name] = _run_stage(stage, work)
        build.reporter.update(metrics={"rows/out": tallies[stage.name].rows_out})
    return Outcome(folders[names[-1]], tallies, folders)


def _read(sources: Sequence[SourceRows], folder: Path, build: Build) -> Tally:
    tally = _resumed(folder)
    mark = folder / _COMPLETE
    build.reporter.update(stage=READ, step=tally.rows_in)
    if not mark.exists():
        rows = chain.from_iterable(source.read() for source in sources)
        _run(islice(rows, tally.rows_in, None), _counted, folder, READ, tally, build)
        artifacts.write_json(mark, {"rows": tally.rows_in})
    return tally


def _counted(position: int, row: ProblemRow, tally: Tally) -> ProblemRow:
    source, _ = origin(row)
    tally.counts[f"from {source}"] += 1
    return row


def _run_stage(stage: Stage, work: StageWork) -> Tally:
    tally = _resumed(work.folder)
    work.build.reporter.update(stage=stage.name, step=tally.rows_in, total=work.total)
    if tally.rows_in < work.total:
        stage.prepare(work)
        work.build.reporter.update(stage=stage.name, step=tally.rows_in, total=work.total)
        rows = stage.reordered(work) if isinstance(stage, Reordering) else work.rows()
        _run(islice(rows, tally.rows_in, None), stage.apply, work.folder, stage.name, tally, work.build)
        if tally.rows_in != work.total:
            raise DataError(f"stage {stage.name} saw {tally.rows_in} of {work.total} rows: report this as a bug")
    return tally


def _resumed(folder: Path) -> Tally:
    """What the shards that are there have counted."""
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    for shard in shards.complete(folder):
        tally.add(Tally.from_json(json.loads(shard.with_suffix(".json").read_text(encoding="utf-8"))))
    return tally


def _run(rows: Iterator[ProblemRow], apply: Apply, folder: Path, name: str, tally: Tally, build: Build) -> None:
    """Send rows through `apply` and publish what is left of them, shard by shard; `tally` grows with each."""
    number = len(shards.complete(folder))
    watched = build.watched(rows, tally.rows_in)
    while True:
        part, kept, size = Tally(), list[ProblemRow](), 0
        for row in watched:
            left = apply(tally.rows_in + part.rows_in, row, part)
            part.rows_in += 1
            if left is not None:
                kept.append(left)
                size += left.characters
            # Cut by what goes out as well: a stage may make a row a thousand times as long as it was.
            if part.rows_in >= shards.SHARD_ROWS or size >= shards.SHARD_CHARACTERS:
                break
        if not part.rows_in:
            return
        part.rows_out = len(kept)
        if part.rows_out + len(part.log) != part.rows_in:
            raise DataError(f"stage {name} lost rows without saying why: report this as a bug")
        build.check_fence()
        _publish(folder / f"part-{number:06d}.parquet", kept, part)
        tally.add(part)
        number += 1
        metrics.ROWS.labels(name, "ok").inc(part.rows_out)
        for cause, count in part.counts.items():
            if cause.startswith("dropped "):
                metrics.ROWS.labels(name, cause).inc(count)
        build.reporter.update(step=tally.rows_in)
        build.check_stop()


def _publish(path: Path, rows: list[ProblemRow], tally: Tally) -> None:
    log = "".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in tally.log)
    artifacts.write_atomic(path.with_suffix(".jsonl"), log)
    artifacts.write_json(path.with_suffix(".json"), tally.to_json())
    shards.publish(path, rows)
