"""The tables of an evaluation's artifact: results, calls and problems, merged from the parts of all shards.

Rows are sorted by model, problem and sample and written in small row groups, so that a reader gets one sample without
the rest; what is held in memory at once is one row group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qednano.evals.calls import Call, SampleKey, ordered
from qednano.evals.parts import Part

GROUP_ROWS, GROUP_CHARACTERS = 64, 2 << 20
_text = pa.string()

RESULTS = pa.schema(
    [
        ("model", _text), ("problem", _text), ("index", pa.int32()), ("text", _text), ("proof", _text),
        ("score", pa.float64()), ("reason", _text), ("details", _text), ("finish_reason", _text),
        ("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64()), ("seconds", pa.float64()),
        ("reasoning", _text), ("calls", pa.int32()), ("failed_calls", pa.int32()), ("cost", pa.float64()),
        ("stop", _text), ("notes", _text), ("path", _text),
    ]
)  # fmt: skip
CALLS = pa.schema(
    [
        ("model", _text), ("problem", _text), ("index", pa.int32()), ("number", pa.int32()), ("path", _text),
        ("parent", _text), ("inputs", pa.list_(_text)), ("role", _text), ("purpose", _text), ("key", _text),
        ("asked", _text), ("messages", _text), ("text", _text), ("reasoning", _text), ("finish_reason", _text),
        ("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64()), ("cost", pa.float64()),
        ("seconds", pa.float64()), ("started", pa.float64()), ("seed", pa.int64()), ("status", _text),
        ("error", _text),
    ]
)  # fmt: skip

Order = Callable[[SampleKey], int | None]


def order_of(models: Sequence[str], problems: Sequence[str], samples: int) -> Order:
    """The place of a sample in the tables; None for one that doesn't belong to them."""
    model_at = {name: number for number, name in enumerate(models)}
    problem_at = {name: number for number, name in enumerate(problems)}

    def place(key: SampleKey) -> int | None:
        model, problem, index = key
        if model not in model_at or problem not in problem_at or index >= samples:
            return None
        return (model_at[model] * len(problem_at) + problem_at[problem]) * samples + index

    return place


def sample_rows(parts: Sequence[Part], order: Order) -> Iterator[dict[str, Any]]:
    """The last row of each sample, in order."""
    places: dict[int, tuple[int, int]] = {}
    for number, part in enumerate(parts):
        if not part.samples.is_file():
            continue
        place = 0
        with part.samples.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    row = json.loads(line)
                    rank = order((row["model"], row["problem"], row["index"]))
                    if rank is not None:
                        places[rank] = number, place
                place += len(line)
    files = [part.samples.open("rb") if part.samples.is_file() else None for part in parts]
    try:
        for rank in sorted(places):
            number, place = places[rank]
            file = files[number]
            assert file is not None  # a place was found in it
            file.seek(place)
            yield json.loads(file.readline())
    finally:
        for file in files:
            if file is not None:
                file.close()


def call_row(call: Call) -> dict[str, Any]:
    """A row of calls.parquet."""
    return asdict(call) | {
        "parent": call.parent,
        "messages": json.dumps(call.messages, ensure_ascii=False),
        "cost": None if call.cost is None else float(call.cost),
        "status": str(call.status),
    }


def write_groups(path: Path, schema: pa.Schema, units: Iterable[list[dict[str, Any]]]) -> int:
    """Write rows with whole units in each row group, cut at 64 rows or 2 MiB of text; returns how many rows."""
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        size = 0
        for unit in units:
            group += unit
            size += sum(len(value) for row in unit for value in row.values() if isinstance(value, str))
            if len(group) >= GROUP_ROWS or size >= GROUP_CHARACTERS:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                written, group, size = written + len(group), [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            written += len(group)
    return written


def write_tables(folder: Path, parts: Sequence[Part], order: Order) -> None:
    """results.parquet and calls.parquet of all parts."""
    write_groups(folder / "results.parquet", RESULTS, ([row] for row in sample_rows(parts, order)))
    calls = ordered([part.calls for part in parts], order)
    write_groups(folder / "calls.parquet", CALLS, ([call_row(call) for call in sample] for sample in calls))
