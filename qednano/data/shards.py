"""Shards of rows on disk: published whole or not at all, in an order and of a size that depend on the rows alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from qednano.data.schema import ProblemRow, to_table
from qednano.errors import ConfigError
from qednano.llm.chat import ChatModel
from qednano.progress import Reporter

Models = Callable[[], AbstractAsyncContextManager[Mapping[str, ChatModel]]]

SHARD_ROWS = 2000
SHARD_CHARACTERS = 1 << 26
_HELD_ROWS = 256  # at once: a row may have megabytes of proofs
STOP_EVERY = 200  # rows between two looks at whether to stop


def _no_models() -> AbstractAsyncContextManager[Mapping[str, ChatModel]]:
    raise ConfigError("this build has no language models, and a stage asks for one: run it as a ProofDataset")


@dataclass(frozen=True)
class Build:
    """Where a build writes, to whom it reports, and what it asks before it goes on."""

    run_dir: Path
    reporter: Reporter
    check_stop: Callable[[], None]  # raises Stopped
    check_fence: Callable[[], None]  # raises Fenced
    open_models: Models = _no_models  # the models of the spec by their field's path, as often as they are needed
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # input to what pins the model served from it
    others: Path | None = None  # the folder of the namespace's ProofDatasets; None looks at no other

    @property
    def work(self) -> Path:
        return self.run_dir / "work"

    @property
    def artifact(self) -> Path:
        return self.run_dir / "artifact"

    def watched(self, rows: Iterable[ProblemRow], step: int = 0) -> Iterator[ProblemRow]:
        """The same rows, `step` of which are done; in passing, progress is reported and a stop is noticed."""
        for number, row in enumerate(rows, start=1):
            yield row
            if number % STOP_EVERY == 0:
                self.reporter.update(step=step + number)
                self.check_stop()


def complete(folder: Path) -> list[Path]:
    """The complete shards of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


def count(paths: Iterable[Path]) -> int:
    """How many rows the shards have."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def read(folder: Path, start: int = 0) -> Iterator[ProblemRow]:
    """The rows of all shards of a folder, in order, from position `start` on, a batch at a time."""
    for path in complete(folder):
        with pq.ParquetFile(path) as file:
            if start >= file.metadata.num_rows:
                start -= file.metadata.num_rows
                continue
            for batch in file.iter_batches(batch_size=_HELD_ROWS):
                for values in batch.slice(start).to_pylist():
                    yield ProblemRow(**values)
                start = max(0, start - len(batch))


def batches(rows: Iterable[ProblemRow]) -> Iterator[list[ProblemRow]]:
    """Rows in shards: cut by number and by size."""
    batch: list[ProblemRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.characters
        if len(batch) >= SHARD_ROWS or size >= SHARD_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def publish(path: Path, rows: list[ProblemRow]) -> None:
    """Write one shard so that it is there whole or not at all, even after power loss."""
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(to_table(rows), partial, compression="zstd")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
