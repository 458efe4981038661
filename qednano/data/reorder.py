"""Rows in another order, of which only a part is in memory at once: cut into buckets on disk, each sorted by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qednano.data.schema import ProblemRow

BUCKETS = 256  # files that are open at once


def reordered(rows: Iterable[ProblemRow], ranks: NDArray[np.int64], folder: Path) -> Iterator[ProblemRow]:
    """The rows by rank: `ranks[i]` is the place of the i-th row, and all ranks are a permutation of 0..n-1.

    `folder` is used while rows are read and is gone afterwards; a bucket of it, n / 256 rows, is held at once.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    width = max(1, -(-len(ranks) // BUCKETS))
    paths = [folder / f"{number:03d}.jsonl" for number in range(-(-len(ranks) // width))]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("w", encoding="utf-8", errors="surrogatepass")) for path in paths]
        for row, rank in zip(rows, ranks.tolist(), strict=True):
            files[rank // width].write(json.dumps([rank, asdict(row)]) + "\n")
    for path in paths:
        with path.open(encoding="utf-8", errors="surrogatepass") as file:
            bucket = sorted((json.loads(line) for line in file), key=lambda item: int(item[0]))
        for _, values in bucket:
            yield ProblemRow(**values)
        path.unlink()
    shutil.rmtree(folder)
