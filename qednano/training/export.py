"""A checkpoint as a plain Hugging Face folder: on a CPU, without DeepSpeed, wherever the run's folder is seen.

    python -m qednano.training.export RUN_DIR [STEP]

writes ``RUN_DIR/exports/step-000123`` (``model/`` and a manifest), which an EvalRun can evaluate.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qednano.artifacts import publish, staging, write_json, write_manifest
from qednano.errors import CheckpointError, QedError, UsageError
from qednano.training.checkpoint import Checkpoints, step_of
from qednano.training.lora import merge_into
from qednano.training.model import write_model_folder
from qednano.training.state import Shards

ORIGIN = "origin.json"  # in the run's folder: what a checkpoint doesn't say of itself


def export_folder(run_dir: Path, step: int) -> Path:
    """Where the export of a step is."""
    return run_dir / "exports" / f"step-{step:06d}"


def write_origin(run_dir: Path, *, model_folder: Path, kind: str, name: str, spec: dict[str, Any]) -> None:
    """Note once, for `export_checkpoint`, which model the run started from and what it is."""
    write_json(run_dir / ORIGIN, {"model": str(model_folder), "kind": kind, "name": name, "spec": spec})


def export_checkpoint(run_dir: Path, checkpoint: Path) -> Path:
    """Write the export of a checkpoint's folder, unless it is there; its folder. Raises CheckpointError."""
    final = export_folder(run_dir, step_of(checkpoint))
    if (final / "manifest.json").is_file():
        return final
    try:
        origin = json.loads((run_dir / ORIGIN).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run_dir / ORIGIN} can't be read ({error}); exports need it") from None
    source = Path(origin["model"])
    with staging(final) as folder:
        write_model_folder(checkpoint_weights(checkpoint, source), source, folder / "model")
        write_manifest(
            folder,
            kind=origin["kind"],
            name=origin["name"],
            spec=origin["spec"],
            metrics={"step": step_of(checkpoint)},
        )
        publish(folder, final)
    return final


def checkpoint_weights(checkpoint: Path, source: Path) -> dict[str, Tensor]:
    """A checkpoint's weights under their Hugging Face names, in the type they are trained in; adapters are merged into
    the weights of `source`, the model that the run started from."""
    with Shards(checkpoint) as shards:
        dtype = getattr(torch, shards.facts["dtype"])
        trained = {name: weight.to(dtype) for name, weight in shards.weights()}
        scale = shards.facts["lora_scale"]
    if scale is None:
        return trained
    weights = {name: weight.to(dtype) for name, weight in _folder_weights(source).items()}
    merge_into(weights, trained, scale)
    return weights


def _folder_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(path))
    return weights


def exported_steps(run_dir: Path) -> list[int]:
    """Steps whose export is complete, in order."""
    found = [path.parent.name.removeprefix("step-") for path in (run_dir / "exports").glob("step-*/manifest.json")]
    return sorted(int(digits) for digits in found if digits.isdigit())


def prune_exports(run_dir: Path, kept: list[Path], wanted: set[int]) -> None:
    """Remove exports whose checkpoint is gone, but for the `wanted` steps."""
    stay = {step_of(folder) for folder in kept} | wanted
    for step in exported_steps(run_dir):
        if step not in stay:
            shutil.rmtree(export_folder(run_dir, step), ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Export one step, by default the newest; prints the folder."""
    try:
        if not 1 <= len(arguments) <= 2 or not all(step.isdigit() for step in arguments[1:]):
            raise UsageError("usage: python -m qednano.training.export RUN_DIR [STEP]")
        run_dir = Path(arguments[0])
        there = {step_of(folder): folder for folder in Checkpoints(run_dir).complete()}
        step = int(arguments[1]) if len(arguments) == 2 else max(there, default=0)
        if step not in there:
            raise UsageError(f"{run_dir} has no checkpoint of step {step}; it has {sorted(there) or 'none'}")
        print(export_checkpoint(run_dir, there[step]))
    except QedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
