"""What a run's children say, as small typed values read from compact objects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qednano.plan import Verdict, classify, told_exit_code
from qednano.plan.lifecycle import Action
from qednano_operator.decision import Object

LABEL = "qednano.dev/"
_DISRUPTIONS = {"Evicted", "Preempting", "NodeLost", "NodeShutdown", "Shutdown", "Terminated"}
_STUCK = {
    "ErrImagePull": "can't pull its image",
    "ImagePullBackOff": "can't pull its image",
    "ErrImageNeverPull": "can't find its image on the node",
    "InvalidImageName": "has an invalid image name",
    "CreateContainerConfigError": "can't be configured",
    "CreateContainerError": "can't be created",
    "RunContainerError": "can't be started",
}


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp; None when it is absent or malformed."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


class LastWords(BaseModel):
    """The JSON a job leaves as its termination message. It comes from the pod, so every field is bounded."""

    model_config = ConfigDict(extra="ignore")

    class Made(BaseModel):
        """The artifact the job made."""

        uri: str = Field(max_length=1024)
        digest: str = Field(default="", max_length=253)

    outcome: str = Field(default="", max_length=64)
    reason: str = Field(default="", max_length=128)
    message: str = Field(default="", max_length=4096)
    metrics: dict[str, str] = Field(default_factory=dict, max_length=64)
    artifact: Made | None = None


def last_words(text: str) -> LastWords:
    """Parse a termination message; text that is none (the end of a log) becomes the message."""
    try:
        return LastWords.model_validate(json.loads(text))
    except (ValueError, ValidationError):
        lines = [line for line in text.strip().splitlines() if line.strip()]
        return LastWords(message=" ".join(lines[-3:])[-1000:])


@dataclass(frozen=True)
class Ended:
    """How a container ended. ``code`` is None when the pod ended without running it."""

    code: int | None
    words: LastWords
    finished: str = ""
    out_of_memory: bool = False


@dataclass(frozen=True)
class Pod:
    """One pod of a role."""

    name: str
    uid: str
    role: str
    attempt: int
    index: int
    phase: str
    scheduled: bool
    ready: bool
    running: bool
    terminating: bool
    disrupted: bool
    reason: str
    ip: str
    restarts: int
    ended: Ended | None
    last_ended: Ended | None
    trouble: str = ""  # why it does not run, as a phrase

    @property
    def active(self) -> bool:
        """Whether it may still hold resources or write to storage."""
        return self.phase not in ("Succeeded", "Failed")

    @property
    def succeeded(self) -> bool:
        """Whether its process ended with 0."""
        return self.phase == "Succeeded" or (self.ended is not None and self.ended.code == 0)

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise, or is going away though nobody here asked for it."""
        return not self.succeeded and (self.phase == "Failed" or self.ended is not None)

    def verdict(self) -> Verdict:
        """What its end means."""
        ended = self.ended
        if ended is None or ended.code is None:
            return Verdict(Action.RESUME, self.reason or "PodLost")
        code = told_exit_code(ended.code, ended.words.reason)
        return classify(code, disrupted=self.disrupted, out_of_memory=ended.out_of_memory)

    def explanation(self) -> str:
        """A sentence on its end: its own last words where it left some."""
        ended = self.ended
        if ended and ended.words.message:
            return ended.words.message
        if ended and ended.out_of_memory:
            return f"pod {self.name} needed more memory than its limit; raise resources.memory of {self.role}"
        if ended and ended.code is not None:
            return f"pod {self.name} ended with exit code {ended.code}"
        return f"pod {self.name} was lost ({self.reason or 'deleted'})"


@dataclass(frozen=True)
class Work:
    """A Job, which runs one pod of a task role, or a StatefulSet, which runs a role's servers."""

    kind: str
    name: str
    uid: str
    role: str
    attempt: int
    index: int
    terminating: bool
    complete: bool
    failed: str  # why, empty while it has not failed
    ready: int
    spec_hash: str


@dataclass(frozen=True)
class Observed:
    """All children of one run, by what they are. Objects of an earlier run of the same name are ``strangers``."""

    pods: tuple[Pod, ...] = ()
    works: tuple[Work, ...] = ()
    hashes: dict[tuple[str, str], str] = field(default_factory=dict)
    uids: dict[tuple[str, str], str] = field(default_factory=dict)
    config: str | None = None
    strangers: tuple[str, ...] = ()

    def role_pods(self, role: str, attempt: int | None = None) -> list[Pod]:
        """Pods of the role, of one attempt where given, by index."""
        found = [pod for pod in self.pods if pod.role == role and attempt in (None, pod.attempt)]
        return sorted(found, key=lambda pod: (pod.index, pod.name))

    def role_works(self, role: str, attempt: int | None = None) -> list[Work]:
        """Jobs or StatefulSet of the role, of one attempt where given, by index."""
        found = [work for work in self.works if work.role == role and attempt in (None, work.attempt)]
        return sorted(found, key=lambda work: (work.index, work.name))


def _labels(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _ended(state: dict[str, Any] | None) -> Ended | None:
    terminated = (state or {}).get("terminated")
    if not terminated:
        return None
    return Ended(
        code=int(terminated.get("exitCode", 0)),
        words=last_words(terminated.get("message") or ""),
        finished=terminated.get("finishedAt") or "",
        out_of_memory=terminated.get("reason") == "OOMKilled",
    )


def _trouble(status: dict[str, Any], container: dict[str, Any]) -> str:
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in _STUCK:
        return f"{_STUCK[waiting['reason']]}: {waiting.get('message') or waiting['reason']}"
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"can't be scheduled: {condition.get('message') or condition.get('reason') or 'no reason given'}"
    if waiting.get("reason") == "CrashLoopBackOff":
        return "keeps failing and is restarted"
    return ""


def _is(status: dict[str, Any], condition_type: str) -> bool:
    return any(c["type"] == condition_type and c["status"] == "True" for c in status.get("conditions") or [])


def pod_of(obj: Object) -> Pod:
    """Read a pod."""
    meta, status, labels = obj["metadata"], obj.get("status") or {}, _labels(obj)
    containers = status.get("containerStatuses") or [{}]
    container = containers[0]
    reason = status.get("reason") or ""
    ended = _ended(container.get("state"))
    if ended is None and status.get("phase") == "Failed":
        ended = Ended(None, LastWords(message=(status.get("message") or "")[:1000]))
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        role=labels.get(LABEL + "role", ""),
        attempt=_number(labels.get(LABEL + "attempt")),
        index=_number(labels.get(LABEL + "index") or meta["name"].rpartition("-")[2]),
        phase=status.get("phase") or "Pending",
        scheduled=bool((obj.get("spec") or {}).get("nodeName")),
        ready=_is(status, "Ready"),
        running="running" in (container.get("state") or {}),
        terminating=bool(meta.get("deletionTimestamp")),
        disrupted=bool(meta.get("deletionTimestamp")) or reason in _DISRUPTIONS or _is(status, "DisruptionTarget"),
        reason=reason,
        ip=status.get("podIP") or "",
        restarts=int(container.get("restartCount") or 0),
        ended=ended,
        last_ended=_ended(container.get("lastState")),
        trouble=_trouble(status, container),
    )


def _work_of(obj: Object) -> Work:
    meta, status, labels = obj["metadata"], obj.get("status") or {}, _labels(obj)
    failed = [c for c in status.get("conditions") or [] if c["type"] == "Failed" and c["status"] == "True"]
    return Work(
        kind=obj["kind"],
        name=meta["name"],
        uid=meta["uid"],
        role=labels.get(LABEL + "role", ""),
        attempt=_number(labels.get(LABEL + "attempt")),
        index=_number(labels.get(LABEL + "index")),
        terminating=bool(meta.get("deletionTimestamp")),
        complete=_is(status, "Complete"),
        failed=(failed[0].get("message") or failed[0].get("reason") or "failed") if failed else "",
        ready=int(status.get("readyReplicas") or 0),
        spec_hash=(meta.get("annotations") or {}).get(LABEL + "spec-hash", ""),
    )


def _owned(obj: Object, run_uid: str) -> bool:
    return any(owner.get("uid") == run_uid for owner in obj["metadata"].get("ownerReferences") or [])


def observe(children: Iterable[Object], run_uid: str) -> Observed:
    """Sort a run's children. A pod belongs to the run when its Job or StatefulSet does."""
    objects = list(children)
    ours = {obj["metadata"]["uid"] for obj in objects if _owned(obj, run_uid)}
    pods: list[Pod] = []
    works: list[Work] = []
    strangers: list[str] = []
    hashes: dict[tuple[str, str], str] = {}
    uids: dict[tuple[str, str], str] = {}
    config = None
    for obj in objects:
        kind, meta = obj["kind"], obj["metadata"]
        # A pod whose Job is already gone still carries the run's uid in a label.
        mine = meta["uid"] in ours or (kind == "Pod" and _labels(obj).get(LABEL + "uid") == run_uid)
        if not mine:
            strangers.append(f"{kind} {meta['name']}")
            continue
        hashes[kind, meta["name"]] = (meta.get("annotations") or {}).get(LABEL + "spec-hash", "")
        uids[kind, meta["name"]] = meta["uid"]
        if kind == "Pod":
            pods.append(pod_of(obj))
        elif kind in ("Job", "StatefulSet"):
            works.append(_work_of(obj))
        elif kind == "ConfigMap":
            config = (obj.get("data") or {}).get("config.json")
    return Observed(tuple(pods), tuple(works), hashes, uids, config, tuple(strangers))
