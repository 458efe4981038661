"""Continuous evaluation: EvalRuns of the exported checkpoints that spec.evaluations chooses, and what they scored."""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from qednano.api import API_VERSION, KINDS, ConditionType, EvalRunSpec, Run, RunStatus
from qednano.api.kinds import Metadata
from qednano.api.status import EvaluationStatus
from qednano.plan.evaluations import NAME_TAKEN, STEPS, due_evaluations, last_step, wants
from qednano_operator.conditions import find
from qednano_operator.decision import Decision, Event, Object, World
from qednano_operator.observe import LABEL
from qednano_operator.subject import Subject

_KEPT = 64  # evaluations that a status lists


def evaluate(subject: Subject, world: World, decision: Decision) -> Decision:
    """The decision, with the EvalRuns that the run's checkpoints call for added to what it makes.

    An EvalRun that was made once is not made again, whoever deleted it: the status lists them all.
    """
    if not getattr(subject.spec, "evaluations", ()) or not decision.status.start_time:
        return decision
    decision = replace(decision, status=_with_last(subject, decision.status))
    listed = {item.name: item for item in decision.status.evaluations}
    listed |= {name: _look(name, run, listed.get(name)) for name, run in world.evaluations.items()}
    exported = decision.status.progress.exports if decision.status.progress else []
    made = due_evaluations(_run(subject), exported, listed, _templates(world), _counted(decision.status))
    objects, told = [], []
    for manifest in made:
        name, step = manifest["metadata"]["name"], manifest["spec"]["continuous"]["step"]
        uid, _ = world.owners.get(("EvalRun", name), (subject.uid, ""))
        if uid == subject.uid:
            objects.append(_owned(subject, manifest))
            told.append(Event("EvaluationCreated", f"EvalRun {name} evaluates a checkpoint"))
        else:  # no reason to hold the training up
            text = f"step {step} is not evaluated: EvalRun {name} is there already and is not this run's"
            told.append(Event("EvaluationNameTaken", text, warning=True))
        listed[name] = EvaluationStatus(name=name, step=step, phase="Pending" if uid == subject.uid else NAME_TAKEN)
    kept = sorted(listed.values(), key=lambda item: (item.step, item.name))[-_KEPT:]
    return replace(
        decision,
        status=decision.status.model_copy(update={"evaluations": kept}),
        apply=(*decision.apply, *objects),
        events=(*decision.events, *told),
    )


def _with_last(subject: Subject, status: RunStatus) -> RunStatus:
    """A run that has ended well has kept the weights of its last step, though it may have ended before it said so."""
    ended = find(status, ConditionType.SUCCEEDED)
    last = last_step(subject.spec, _counted(status))
    if ended is None or status.progress is None or not wants(subject.spec, last, last):
        return status
    exports = sorted({*status.progress.exports, last})[-_KEPT:]
    return status.model_copy(update={"progress": status.progress.model_copy(update={"exports": exports})})


def _counted(status: RunStatus) -> int:
    """The steps of the run as its trainer has told them; 0 before. One that ended at once told them by its metrics."""
    if status.progress is None:
        return 0
    ended_with = (int(metric.value) for metric in status.progress.metrics if metric.name == STEPS)
    return status.progress.total or next(ended_with, 0)


def _look(name: str, run: Object, before: EvaluationStatus | None) -> EvaluationStatus:
    status = run.get("status") or {}
    continuous = (run.get("spec") or {}).get("continuous") or {}
    return EvaluationStatus(
        name=name,
        step=int(continuous.get("step") or (before.step if before else 0)),
        phase=str(status.get("phase") or "Pending"),
        score=str((status.get("progress") or {}).get("headline") or ""),
    )


def _templates(world: World) -> dict[str, EvalRunSpec]:
    found = {}
    for (kind, name), run in world.runs.items():
        if kind == "EvalRun":
            try:
                found[name] = EvalRunSpec.model_validate(run.get("spec"))
            except ValidationError:
                continue  # it says so itself, in its own status
    return found


def _run(subject: Subject) -> Run:
    metadata = Metadata(name=subject.name, namespace=subject.namespace)
    return KINDS[subject.kind].model_construct(kind=subject.kind, metadata=metadata, spec=subject.spec)


def _owned(subject: Subject, manifest: Object) -> Object:
    """The manifest with the training run as its owner, so that it goes when that is deleted."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": subject.kind,
        "name": subject.name,
        "uid": subject.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    metadata = {**manifest["metadata"], "ownerReferences": [owner]}
    metadata["labels"] = {**metadata.get("labels", {}), "app.kubernetes.io/managed-by": "qednano-operator"}
    metadata["annotations"] = {LABEL + "made-for": f"{subject.kind}/{subject.name}"}
    return {**manifest, "metadata": metadata}
