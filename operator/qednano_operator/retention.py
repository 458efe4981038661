"""spec.artifacts.retention: Delete. The run's folder goes with the run, by a Job, and deletion always ends.

A run that asks for it carries a finalizer from before its first pod; others carry none. Once such a run is deleted,
its pods end, a Job removes its folder, and the finalizer goes. It also goes when the Job fails, can't be made, or
when all of that has taken too long: then an event says that the folder is still there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from qednano.api import RunStatus
from qednano.api.common import Resources, Retention, RunSpec
from qednano.plan import Lifecycle, Role
from qednano_operator import manifests, teardown
from qednano_operator.decision import Decision, Defaults, Event, Object, Target, World
from qednano_operator.observe import LABEL, observe, parse_time
from qednano_operator.subject import Subject, read_spec

FINALIZER = "qednano.dev/artifacts"
PATIENCE = 900  # seconds after the deletion, pods that end included
_JOB_SECONDS = 600
_ROLE = Role("cleanup", "qednano_jobs.cleanup", "worker", Lifecycle.TASK, Resources.model_validate({"memory": "256Mi"}))


def _finalizers(run: Object) -> list[str]:
    return list(run["metadata"].get("finalizers") or [])


def guard(run: Object, spec: RunSpec) -> tuple[str, ...] | None:
    """The finalizers that the run should have; None when it has them."""
    there = _finalizers(run)
    wanted = spec.artifacts.retention is Retention.DELETE
    if wanted == (FINALIZER in there):
        return None
    return (*there, FINALIZER) if wanted else _without(run)


def _without(run: Object) -> tuple[str, ...]:
    return tuple(name for name in _finalizers(run) if name != FINALIZER)


def leave(run: Object, status: RunStatus, world: World, now: datetime, defaults: Defaults) -> Decision:
    """What to do for a run that is being deleted."""
    if FINALIZER not in _finalizers(run):
        return Decision(status)  # the garbage collector follows the owner references
    kind, meta = run["kind"], run["metadata"]
    spec = read_spec(kind, meta["name"], run.get("spec"))
    if isinstance(spec, str):
        return _kept(run, status, f"its spec can't be read: {spec}")
    if spec.artifacts.retention is not Retention.DELETE or not status.run_dir:
        return Decision(status, finalizers=_without(run))
    identity = kind, meta["name"], meta["namespace"], meta["uid"], int(meta.get("generation") or 0)
    subject = Subject(*identity, spec=spec, written=spec, chosen=None, status=status, now=now)
    role = LABEL + "role"
    ours = [child for child in world.children if (child["metadata"].get("labels") or {}).get(role) != _ROLE.name]
    observed = observe(ours, meta["uid"])
    job = next((c for c in world.children if c["kind"] == "Job" and c["metadata"]["name"] == _job_name(subject)), None)
    targets = [] if job is None else [Target("Job", _job_name(subject), job["metadata"]["uid"])]
    if job is not None and _has(job, "Complete"):
        event = Event("ArtifactsDeleted", f"the run's folder {status.run_dir} is deleted")
        return Decision(status, delete=tuple(targets), finalizers=_without(run), events=(event,))
    since = parse_time(meta["deletionTimestamp"])
    left = PATIENCE - ((now - since).total_seconds() if since else 0.0)
    active = teardown.everything_active(observed)
    if job is not None and _has(job, "Failed"):
        return _kept(run, status, f"Job {_job_name(subject)} failed", tuple(targets))
    if left <= 0:
        why = "the run's pods did not end" if job is None else f"Job {_job_name(subject)} did not end"
        return _kept(run, status, f"{why} within {PATIENCE} s", (*active, *targets))
    if not teardown.is_quiet(observed):
        return Decision(status, delete=tuple(active), wake_after=left)
    questions = teardown.pods_before("the end of the folder", world.asked) if job is None else ()
    if questions:
        return Decision(status, ask=questions)
    return Decision(status, apply=() if job is not None else (cleanup(subject, defaults),), wake_after=left)


def refused(run: Object, status: RunStatus, text: str) -> Decision:
    """The decision when the API server refuses the Job: in a namespace that goes away it will do so for ever."""
    if "being terminated" in text:
        return _kept(run, status, text)
    return Decision(status.model_copy(update={"message": text}), wake_after=30)


def _kept(run: Object, status: RunStatus, why: str, targets: tuple[Target, ...] = ()) -> Decision:
    folder = status.run_dir or "of the run"
    text = f"the folder {folder} was not deleted: {why}; delete it on the volume by hand"
    event = Event("ArtifactsKept", text, warning=True)
    return Decision(status, delete=targets, finalizers=_without(run), events=(event,))


def _has(job: Object, condition: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(item["type"] == condition and item["status"] == "True" for item in conditions)


def _job_name(subject: Subject) -> str:
    return f"{subject.name}-{_ROLE.name}"


def cleanup(subject: Subject, defaults: Defaults) -> Object:
    """The Job that deletes the run's folder. No owner: the garbage collector would take it with the run it outlives.

    It is told the folder and nothing else: no configuration, which goes with the run, and no Secret.
    """
    job: dict[str, Any] = manifests.job(subject, _ROLE, 0, 0, defaults)
    del job["metadata"]["ownerReferences"]
    job["metadata"]["name"] = _job_name(subject)
    limits = {"backoffLimit": 2, "activeDeadlineSeconds": _JOB_SECONDS, "ttlSecondsAfterFinished": 3600}
    job["spec"] = {**job["spec"], **limits}
    pod = job["spec"]["template"]["spec"]
    del pod["hostname"], pod["subdomain"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] in ("storage", "tmp")]
    (container,) = pod["containers"]
    container["env"] = [item for item in container["env"] if item["name"] in ("QED_RUN_DIR", "PYTHONUNBUFFERED")]
    container["volumeMounts"] = [item for item in container["volumeMounts"] if item["name"] in ("storage", "tmp")]
    container.pop("ports", None)
    return job
