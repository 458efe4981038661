"""References of a spec to other runs, and where their files are once those runs are done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from qednano.api import EvalRunSpec, RLRunSpec, SFTRunSpec
from qednano.api.common import Checkpoint, DatasetRef, ModelRef, RunReference, RunSpec
from qednano.api.grader_evaluation import GradedProofs
from qednano.plan.language_models import served_roles

_PARTS = {Checkpoint.FINAL: "model", Checkpoint.INITIAL: "initial", Checkpoint.BEST: "best"}


@dataclass(frozen=True)
class Reference:
    """``field`` of the spec needs ``part`` of the run ``kind``/``name`` of the same namespace.

    ``part`` is ``model``, ``initial``, ``best``, ``step/<step>`` or ``split/<name>``.
    """

    field: str
    kind: str
    name: str
    part: str

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a checkpoint that the run kept, whose digest is not that of the run's artifact."""
        return self.part == "best" or self.part.startswith("step/")


def export_path(step: int) -> PurePosixPath:
    """Below a training run's folder: the model after `step` steps, as an artifact that the trainer exported."""
    return PurePosixPath("exports") / f"step-{step:06d}" / "model"


def served_input(role: str) -> str:
    """Name of the input that holds the model which the role serves."""
    return f"served/{role}"


def _models(spec: RunSpec) -> list[tuple[str, ModelRef]]:
    return _own_models(spec) + [
        (served_input(role), use.model.model) for role, use in served_roles(spec).items() if use.model.model
    ]


def _own_models(spec: RunSpec) -> list[tuple[str, ModelRef]]:
    """The models that the run is about: those that it trains or evaluates."""
    if isinstance(spec, SFTRunSpec | RLRunSpec):
        return [("model", spec.model)]
    if isinstance(spec, EvalRunSpec):
        return list(evaluated_models(spec).items())
    return []


def evaluated_models(spec: EvalRunSpec) -> dict[str, ModelRef]:
    """Field to model of those that the run's own servers serve in turn, in that order; endpoints are not among them."""
    return {field: model for field, _, model in spec.contenders if model.endpoint is None}


def _datasets(spec: RunSpec) -> list[tuple[str, DatasetRef]]:
    if isinstance(spec, SFTRunSpec):
        mixed = [(f"mixture/{index}/dataset", item.dataset) for index, item in enumerate(spec.mixture)]
        held_out = spec.validation and spec.validation.dataset
        return [("dataset", spec.dataset), *mixed, *([("validation/dataset", held_out)] if held_out else [])]
    if isinstance(spec, RLRunSpec):
        return [("dataset", spec.dataset)]
    if isinstance(spec, EvalRunSpec) and spec.benchmark is not None:
        return [("benchmark", spec.benchmark)]
    return []


def _of_run(field: str, kind: str, reference: RunReference) -> Reference:
    if reference.step is not None:
        return Reference(field, kind, reference.name, f"step/{reference.step}")
    return Reference(field, kind, reference.name, _PARTS[reference.checkpoint])


def references(spec: RunSpec) -> tuple[Reference, ...]:
    """Every reference of ``spec`` to another run, in field order."""
    found = []
    for field, model in _models(spec):
        if model.sft_run:
            found.append(_of_run(field, "SFTRun", model.sft_run))
        if model.rl_run:
            found.append(_of_run(field, "RLRun", model.rl_run))
    for field, dataset in _datasets(spec):
        if dataset.proof_dataset:
            split = dataset.proof_dataset
            found.append(Reference(field, "ProofDataset", split.name, f"split/{split.split}"))
    return tuple(found)


def literal_inputs(spec: RunSpec) -> dict[str, str]:
    """Inputs that the spec names by uri: field to uri."""
    inputs: list[tuple[str, ModelRef | DatasetRef | GradedProofs]] = [*_models(spec), *_datasets(spec)]
    if isinstance(spec, EvalRunSpec) and spec.grader_evaluation is not None:
        inputs.append(("graderEvaluation/data", spec.grader_evaluation.data))
    return {field: item.uri for field, item in inputs if item.uri}


def locate(reference: Reference, artifact_uri: str) -> str:
    """Where the part is, given the artifact folder of the run that made it."""
    folder = PurePosixPath(artifact_uri)
    if reference.part == "model":
        return str(folder / "model")
    if reference.part in ("initial", "best"):
        return str(folder.parent / reference.part)
    if reference.part.startswith("step/"):
        return str(folder.parent / export_path(int(reference.part.removeprefix("step/"))))
    return str(folder / f"{reference.part.removeprefix('split/')}.parquet")
