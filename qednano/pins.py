"""What a run's inputs were when it first read them: later attempts read the same, or say that they can't.

Inputs that another run made are pinned by whoever starts the run, since that run's status has their digest. The others,
a uri or the weights of a step, are looked at by the run's own processes: the first attempt notes what it finds in the
run's folder, where every later one compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from qednano.artifacts import digest_of, write_json
from qednano.errors import InputChanged

FILE = "inputs.json"


class Input(Protocol):
    """A resolved input: where it is, and its digest where that is known."""

    uri: str
    digest: str


def pin(run_dir: Path, inputs: Mapping[str, Input]) -> dict[str, str]:
    """Field to digest of the inputs that came without one. Raises InputChanged.

    A folder that no manifest describes has none, nor has a uri that is no path.
    """
    before = _noted(run_dir)
    found = {
        field: digest
        for field, item in inputs.items()
        if (field in before or not item.digest) and (digest := _digest(item.uri))
    }
    for field, digest in found.items():
        if before.get(field, digest) != digest:
            raise InputChanged(
                f"the input {field}, {inputs[field].uri}, was {before[field][:19]} when the run first read it and is "
                f"{digest[:19]} now; put back what was there, or make a new run for the new content"
            )
    if not found.keys() <= before.keys():
        write_json(run_dir / FILE, found | before)
    return found | before


def _digest(uri: str) -> str:
    path = uri.removeprefix("file://")
    return "" if "://" in path else digest_of(Path(path))


def _noted(run_dir: Path) -> dict[str, str]:
    try:
        found = json.loads((run_dir / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {str(field): str(digest) for field, digest in found.items()} if isinstance(found, dict) else {}
