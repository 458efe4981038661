"""What a run's children say, as small typed values read from compact objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qednano.plan import Verdict, classify, told_exit_code
from qednano.plan.lifecycle import Action
from qednano.plan.waiting import IMAGE_MISSING, START_REFUSED
from qednano_operator.decision import Object
from qednano_operator.profiles import FILE

LABEL = "qednano.dev/"
DISRUPTIONS = {"Evicted", "Preempting", "NodeLost", "NodeShutdown", "Shutdown", "Terminated"}
NO_IMAGE = "ImageUnavailable"


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp; None when it is absent, malformed, or without a zone."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


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
    inputs: dict[str, str] = Field(default_factory=dict, max_length=64)


def last_words(text: str) -> LastWords:
    """Parse a termination message; text that is none (the end of a log) becomes the message."""
    try:
        return LastWords.model_validate(json.loads(text))
    except (ValueError, ValidationError, RecursionError):
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
    to_end_by: datetime | None  # when it has to have ended, once it is deleted: its grace period included
    disrupted: bool
    reason: str
    ip: str
    restarts: int
    ended: Ended | None
    last_ended: Ended | None
    trouble: str = ""  # why it does not run, as a phrase
    stuck: str = ""  # the same in one word, where a person has to put it right
    image: str = ""  # that it waits for

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
        if ended and ended.out_of_memory:  # killed in mid-sentence: what it logged last is no reason
            return f"pod {self.name} needed more memory than its limit; raise resources.memory of {self.role}"
        if ended and ended.words.message:
            return ended.words.message
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
    of_set: tuple[str, str] | None = None  # name and uid of the JobSet that makes it anew when it is deleted
    asked: bool = False  # whether the API server was asked for its pods since it ended: what is not seen then is gone


@dataclass(frozen=True)
class Observed:
    """All children of one run, by what they are. Objects of an earlier run of the same name are ``strangers``."""

    pods: tuple[Pod, ...] = ()
    works: tuple[Work, ...] = ()
    sets: tuple[Work, ...] = ()  # JobSets, each of the Jobs of a gang
    hashes: dict[tuple[str, str], str] = field(default_factory=dict)
    uids: dict[tuple[str, str], str] = field(default_factory=dict)
    config: str | None = None
    profile: str = ""  # as it was kept at the start
    strangers: tuple[str, ...] = ()

    def role_pods(self, role: str, attempt: int | None = None) -> list[Pod]:
        """Pods of the role, of one attempt where given, by index."""
        found = [pod for pod in self.pods if pod.role == role and attempt in (None, pod.attempt)]
        return sorted(found, key=lambda pod: (pod.index, pod.name))

    def role_works(self, role: str, attempt: int | None = None) -> list[Work]:
        """Jobs or StatefulSet of the role, of one attempt where given, by index."""
        found = [work for work in self.works if work.role == role and attempt in (None, work.attempt)]
        return sorted(found, key=lambda work: (work.index, work.name))

    def role_sets(self, role: str, attempt: int) -> list[Work]:
        """JobSets of one attempt of the role."""
        return [gang for gang in self.sets if (gang.role, gang.attempt) == (role, attempt)]


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


def _waiting(container: dict[str, Any]) -> dict[str, Any]:
    return (container.get("state") or {}).get("waiting") or {}


def _stuck(container: dict[str, Any]) -> str:
    reason = _waiting(container).get("reason")
    return NO_IMAGE if reason in IMAGE_MISSING else "PodNotStarted" if reason in START_REFUSED else ""


def _trouble(status: dict[str, Any], container: dict[str, Any], role: str) -> str:
    waiting = _waiting(container)
    reason, said = waiting.get("reason"), waiting.get("message") or ""
    if reason in IMAGE_MISSING:
        # A kubelet alternates between the cause and its back-off; the back-off is no news, so it says nothing more.
        why = "" if reason == "ImagePullBackOff" else f": {said or reason}"
        remedy = f"push it, or name another in spec.images (it is that of {role}), which may change while it is missing"
        return f"{IMAGE_MISSING[reason]} {container.get('image') or ''}".rstrip() + f"; {remedy}{why}"
    if reason in START_REFUSED:
        return f"{START_REFUSED[reason]}: {said or reason}; it starts by itself once that is there"
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
        to_end_by=parse_time(meta.get("deletionTimestamp") or ""),
        disrupted=bool(meta.get("deletionTimestamp")) or reason in DISRUPTIONS or _is(status, "DisruptionTarget"),
        reason=reason,
        ip=status.get("podIP") or "",
        restarts=int(container.get("restartCount") or 0),
        ended=ended,
        last_ended=_ended(container.get("lastState")),
        trouble=_trouble(status, container, labels.get(LABEL + "role", "")),
        stuck=_stuck(container),
        image=container.get("image") or "",
    )


def _work_of(obj: Object, sets: dict[str, str], asked: Set[str]) -> Work:
    """``sets``: uid to name of the run's JobSets."""
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
        complete=_is(status, "Completed" if obj["kind"] == "JobSet" else "Complete"),
        failed=(failed[0].get("message") or failed[0].get("reason") or "failed") if failed else "",
        ready=int(status.get("readyReplicas") or 0),
        spec_hash=(meta.get("annotations") or {}).get(LABEL + "spec-hash", ""),
        of_set=next(((sets[uid], uid) for uid in _owners(obj) if uid in sets), None),
        asked=meta["uid"] in asked,
    )


def _owners(obj: Object) -> list[str]:
    return [owner.get("uid") or "" for owner in obj["metadata"].get("ownerReferences") or []]


def observe(children: Iterable[Object], run_uid: str, asked: Set[str] = frozenset()) -> Observed:
    """Sort a run's children. A pod belongs to the run when its Job or StatefulSet does. ``asked``: as in World."""
    objects = list(children)
    ours = {obj["metadata"]["uid"] for obj in objects if run_uid in _owners(obj)}
    sets = {o["metadata"]["uid"]: o["metadata"]["name"] for o in objects if o["kind"] == "JobSet"}
    gangs: list[Work] = []
    pods: list[Pod] = []
    works: list[Work] = []
    strangers: list[str] = []
    hashes: dict[tuple[str, str], str] = {}
    uids: dict[tuple[str, str], str] = {}
    config, profile = None, ""
    for obj in objects:
        kind, meta = obj["kind"], obj["metadata"]
        # A pod whose Job is already gone still carries the run's uid in a label, and so does a Job of a JobSet.
        mine = meta["uid"] in ours or (kind in ("Pod", "Job") and _labels(obj).get(LABEL + "uid") == run_uid)
        if not mine:
            strangers.append(f"{kind} {meta['name']}")
            continue
        hashes[kind, meta["name"]] = (meta.get("annotations") or {}).get(LABEL + "spec-hash", "")
        uids[kind, meta["name"]] = meta["uid"]
        if kind == "Pod":
            pods.append(pod_of(obj))
        elif kind in ("Job", "StatefulSet"):
            works.append(_work_of(obj, sets, asked))
        elif kind == "JobSet":
            gangs.append(_work_of(obj, {}, asked))
        elif kind == "ConfigMap":
            config = (obj.get("data") or {}).get("config.json")
            profile = (obj.get("data") or {}).get(FILE, "")
    return Observed(tuple(pods), tuple(works), tuple(gangs), hashes, uids, config, profile, tuple(strangers))
