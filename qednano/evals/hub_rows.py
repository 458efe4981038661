"""Records of a dataset on the Hub at one commit, which a run keeps from its first attempt on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from qednano.api.benchmarks import KnownBenchmark
from qednano.api.proofdataset import HubSource
from qednano.artifacts import write_json
from qednano.data import hub
from qednano.data.columns import Record


def known_sources(known: KnownBenchmark, revision: str | None) -> list[HubSource]:
    """One source for each split that holds rows."""
    return [HubSource(id=known.hub, revision=revision or "main", split=split) for split in known.splits]


def records(sources: Sequence[HubSource], pins: Path) -> Iterator[Record]:
    """The records of all sources in order. `pins` is a file that keeps which commit each revision was.

    Raises ConfigError for a dataset, revision or split that isn't there, Unavailable when the Hub doesn't answer.
    """
    known: dict[str, str] = json.loads(pins.read_text()) if pins.exists() else {}
    for source in sources:
        name = f"{source.id}@{source.revision}"
        if name not in known:
            known[name] = hub.commit_of(source)
            pins.parent.mkdir(parents=True, exist_ok=True)
            write_json(pins, known)
        yield from hub.records(source, known[name])
