"""An image that is missing: spec.images may be corrected while the run waits for it. Pure.

The corrected images are stored as an intent, together with the attempt that takes them, so they stay the run's own when
spec.images may not change any more. Tasks and servers that wait for an image that was corrected are made anew with the
other one, and all else goes on.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from qednano.api import ConditionType, RunStatus
from qednano.api.common import Images
from qednano.api.status import Attempt
from qednano.plan import Lifecycle, Role
from qednano_operator.attempts import remembered, role_attempt
from qednano_operator.conditions import is_because, put, stamp
from qednano_operator.decision import Target
from qednano_operator.observe import NO_IMAGE, Observed
from qednano_operator.subject import Subject


def corrected(
    subject: Subject, roles: tuple[Role, ...], observed: Observed, started: dict[str, Any] | None
) -> RunStatus | None:
    """The status with the corrected images; None when there is nothing to correct.

    ``started`` is the spec that the run was started with.
    """
    status, images = subject.status, subject.written.images
    if started is None or not is_because(status, ConditionType.RUNNING, NO_IMAGE):
        return None
    try:
        before = status.images or Images.model_validate(started.get("images") or {})
    except ValidationError:
        return None
    if images == before:
        return None
    waits = [
        role.name
        for role in roles
        if role.lifecycle is Lifecycle.TASK
        and getattr(images, role.image) != getattr(before, role.image)
        and any(pod.stuck == NO_IMAGE for pod in observed.role_pods(role.name, role_attempt(status, role.name)))
    ]
    status = status.model_copy(update={"images": images})
    if not waits:
        return status
    number, text = status.attempt + 1, f"spec.images was corrected; attempt {status.attempt + 1} takes the new image"
    ended = Attempt(
        number=role_attempt(status, waits[0]),
        reason="ImageCorrected",
        message=text,
        role=waits[0],
        counted=False,
        ended=stamp(subject.now),
    )
    anew = [
        role.model_copy(update={"attempt": number, "ready": 0}) if role.name in waits else role for role in status.roles
    ]
    update = {"attempt": number, "roles": anew, "message": text, "retry_after": ""}
    status = status.model_copy(update={**update, "attempts": remembered(status, ended)})
    return put(status, ConditionType.RUNNING, False, "Restarting", text, subject.generation, subject.now)


def replaced(subject: Subject, roles: tuple[Role, ...], observed: Observed) -> list[Target]:
    """StatefulSets to delete, and so to be made anew: none of their pods is ready, and one waits for the old image.

    A change of the template alone would not show: it must never restart servers that run.
    """
    found = []
    for role in roles:
        wanted = getattr(subject.spec.images, role.image)
        if role.lifecycle is not Lifecycle.SERVER or subject.status.images is None or not wanted:
            continue
        pods = observed.role_pods(role.name)
        if any(pod.stuck == NO_IMAGE and pod.image not in ("", wanted) for pod in pods) and not any(
            p.ready for p in pods
        ):
            works = [work for work in observed.role_works(role.name) if not work.terminating]
            found += [Target(work.kind, work.name, work.uid) for work in works]
    return found
