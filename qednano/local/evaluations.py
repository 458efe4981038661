"""Continuous evaluation on a laptop: after a training run, the EvalRuns that its checkpoints call for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qednano.api import KINDS, EvalRunSpec
from qednano.api.load import Document
from qednano.local.folders import RunFolder
from qednano.plan.evaluations import STEPS, due_evaluations


def exported_steps(folder: RunFolder) -> list[int]:
    """Steps whose weights the training run has kept."""
    found = (path.name.removeprefix("step-") for path in (folder.path / "exports").glob("step-*") if path.is_dir())
    return sorted(int(step) for step in found if step.isdigit())


def documents_of(trained: Document, folder: RunFolder, known: Sequence[Document]) -> Iterable[Document]:
    """EvalRuns of the run's checkpoints that are not among the ``known`` documents, earliest step first."""
    here = trained.run.metadata.namespace
    evaluations = [item.run for item in known if item.run.kind == "EvalRun" and item.run.metadata.namespace == here]
    templates = {run.metadata.name: run.spec for run in evaluations if isinstance(run.spec, EvalRunSpec)}
    manifest_of_run = folder.manifest()
    counted = int(manifest_of_run.metrics.get(STEPS, 0)) if manifest_of_run else 0
    existing = {run.metadata.name for run in evaluations}
    due = due_evaluations(trained.run, exported_steps(folder), existing, templates, counted)
    for manifest in due:
        yield Document(trained.file, trained.line, KINDS["EvalRun"].model_validate(manifest))
