"""Whole lives of runs of every kind on a real API server: what kubelets and people do in them, and how they ended."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from qednano_operator.health import MAIN_ROLE

from qednano.api import KINDS
from tests.operator.harness import Cluster, eventually, fail, succeed
from tools.cluster.api_client import Refused

Object = dict[str, Any]
LABEL = "qednano.dev/"
WAITS = 3  # the chapter in which a run is about to succeed
_MADE = {
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
}


@dataclass
class Life:
    """One run, and how far its story is."""

    kind: str
    name: str
    chapter: int = 0


@dataclass
class Lives:
    """The cluster around some runs: kubelets that start and end pods, and a person who suspends and resumes.

    The story of each: it runs, fails once, runs again, is suspended, resumed, runs, and succeeds.
    """

    cluster: Cluster
    lives: list[Life]
    may_end: Callable[[], bool] = lambda: True  # until then no run succeeds
    made: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, what it is) of all that was ever created
    _uids: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def of(cluster: Cluster, each: int) -> Lives:
        """So many fresh runs of each kind."""
        lives = [Life(kind, f"{kind.lower()}-{number}") for number in range(each) for kind in KINDS]
        found = Lives(cluster, lives)
        for kind, path in _MADE.items():
            threading.Thread(target=found._count, args=(kind, path.format(cluster.namespace)), daemon=True).start()
        for life in lives:
            cluster.create(life.kind, life.name)
        return found

    def _count(self, kind: str, path: str) -> None:
        """Count what is created, from a watch of the test's own."""
        client = self.cluster.server.client
        while not self._over.wait(0.2):
            with contextlib.suppress(OSError, Refused):
                listed = client.request("GET", path)
                for item in listed["items"]:
                    self._note(kind, item)
                for event in client.watch(path, listed["metadata"]["resourceVersion"]):
                    if event["type"] == "ADDED":
                        self._note(kind, event["object"])
                    if self._over.is_set():
                        return

    def _note(self, kind: str, obj: Object) -> None:
        meta = obj["metadata"]
        labels = meta.get("labels") or {}
        if meta["uid"] in self._uids or LABEL + "run" not in labels:
            return
        self._uids.add(meta["uid"])
        parts = (labels.get(LABEL + key, "") for key in ("run", "role", "attempt", "index"))
        self.made[kind, " ".join(parts) if kind == "Pod" else meta["name"]] += 1

    def tick(self) -> None:
        """Kubelets and people have their turn."""
        runs = {life.name: self.cluster.run(life.kind, life.name) for life in self.lives}
        path = f"/api/v1/namespaces/{self.cluster.namespace}/pods"
        pods = self.cluster.server.client.request("GET", path)["items"]
        for pod in pods:
            with contextlib.suppress(Refused):  # it is gone meanwhile, or has changed
                self._kubelet(pod)
        for life in self.lives:
            mine = [pod for pod in pods if pod["metadata"]["labels"].get(LABEL + "run") == life.name]
            self._story(life, runs[life.name].get("status") or {}, mine)

    def _kubelet(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            path = f"/api/v1/namespaces/{self.cluster.namespace}/pods/{pod['metadata']['name']}"
            self.cluster.server.client.request("DELETE", path, {"gracePeriodSeconds": 0})
        elif pod["status"]["phase"] == "Pending":
            self.cluster.start(pod)
            # Counted when it runs: the Job controller may replace a pod of a Job that is going, and take it back.
            self._note("Pod", pod)

    def _story(self, life: Life, status: Object, pods: list[Object]) -> None:
        phase, attempt = status.get("phase"), status.get("attempt", 0)
        chapters: list[tuple[Any, Callable[[], Any]]] = [
            (("Running", 1), partial(self._end, life, pods, 1, 70, fail("InternalError", "the loss went away"))),
            (("Running", 2), partial(self.cluster.patch, life.kind, life.name, {"suspend": True})),
            (("Suspended", 2), partial(self.cluster.patch, life.kind, life.name, {"suspend": False})),
            (("Running", 3), partial(self._end, life, pods, 3, 0, succeed())),
            (("Succeeded", 3), lambda: None),
        ]
        if life.chapter == WAITS and not self.may_end():
            return
        if life.chapter < len(chapters) and chapters[life.chapter][0] == (phase, attempt):
            chapters[life.chapter][1]()
            life.chapter += 1

    def _end(self, life: Life, pods: list[Object], attempt: int, code: int, words: Object) -> None:
        wanted = {LABEL + "role": MAIN_ROLE[life.kind], LABEL + "attempt": str(attempt)}
        for pod in pods:
            if wanted.items() <= pod["metadata"]["labels"].items():
                self.cluster.end(pod, code, words)

    def unended(self) -> set[str]:
        """Kinds of which a run still lives."""
        return {life.kind for life in self.lives if life.chapter < 5}

    def over(self) -> None:
        """Nothing of these runs will be created any more: who counts may stop."""
        self._over.set()

    def chapters(self) -> int:
        """How far the stories of all runs are, together."""
        return sum(life.chapter for life in self.lives)

    def quiet(self) -> bool:
        """Whether what ended runs leave to the garbage collector is gone."""
        kinds = ("pods", "statefulsets", "services")
        left = [item for life in self.lives for kind in kinds for item in self.cluster.children(kind, life.name)]
        return all(item.get("status", {}).get("phase") in ("Succeeded", "Failed") for item in left)

    # how they ended

    def ends(self) -> dict[str, Any]:
        """What is left of each run, without what differs from one life to the next: times, uids, names of pods."""
        found: dict[str, Any] = {}
        for life in self.lives:
            run = self.cluster.run(life.kind, life.name)
            names = {run["metadata"]["uid"][:8]: "UID", self.cluster.namespace: "NAMESPACE"}
            left = {f"{life.name} status.{key}": _steady(value, names) for key, value in run["status"].items()}
            for kind in ("jobs", "statefulsets", "services", "configmaps", "pods"):
                items = self.cluster.children(kind, life.name)
                for item in items:
                    assert item["metadata"].get("ownerReferences"), f"{kind} {item['metadata']['name']} is an orphan"
                left[f"{life.name} {kind}"] = sorted(_steady(item["metadata"]["name"], names) for item in items)
            found |= {key: value for key, value in left.items() if key.rpartition(".")[2] not in _TIMES}
        return found

    def told(self) -> Counter[tuple[str, str]]:
        """(run, reason) of all events that the operator told of the runs, and how often."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/events"
        names = {life.name for life in self.lives}
        found: Counter[tuple[str, str]] = Counter()
        for item in self.cluster.server.client.request("GET", path)["items"]:
            if item["involvedObject"]["name"] in names and item["source"].get("component") == "qednano-operator":
                found[item["involvedObject"]["name"], item["reason"]] += int(item.get("count") or 1)
        return found


def play(*all_lives: Lives, seconds: float = 90.0) -> None:
    """Play until every run has ended and nothing runs any more."""

    def ended() -> bool:
        for lives in all_lives:
            lives.tick()
        return not any(lives.unended() for lives in all_lives)

    try:
        eventually(ended, what="every run ends", seconds=seconds)
    except AssertionError as error:
        told = [
            (life.name, life.chapter, lives.cluster.status(life.kind, life.name))
            for lives in all_lives
            for life in lives.lives
        ]
        raise AssertionError(f"{error}: {told}") from None

    def quiet() -> bool:
        for lives in all_lives:
            lives.tick()
        return all(lives.quiet() for lives in all_lives)

    eventually(quiet, what="nothing runs any more")
    for lives in all_lives:
        lives.over()


def until(chapters: int, lives: Lives) -> None:
    """Play until the stories are so far, all together: 20 chapters are the whole."""

    def far_enough() -> bool:
        lives.tick()
        return lives.chapters() >= chapters

    eventually(far_enough, what=f"{chapters} chapters", seconds=60)


def assert_same(lives: Lives, expected: Lives) -> None:
    """What is left of the runs, what was ever created for them and what was told of them is what it would have been."""
    found, wanted = lives.ends(), expected.ends()
    differs = {key: (found.get(key), wanted.get(key)) for key in found | wanted if found.get(key) != wanted.get(key)}
    assert not differs
    assert lives.made == expected.made, "nothing is created twice, nothing is left out"
    twice = lives.told() - expected.told()
    assert not twice, f"an event is told once, or lost with the operator that was about to tell it: {twice}"


_TIMES = {"startTime", "completionTime", "lastTransitionTime", "ended", "phaseSince", "observedGeneration", "usage"}
_POD_SUFFIX = re.compile(r"(-a\d+-\d+)-\w{5}\b")


def _steady(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item, names) for key, item in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_steady(item, names) for item in value]
    if not isinstance(value, str):
        return value
    for name, steady in names.items():
        value = value.replace(name, steady)
    return _POD_SUFFIX.sub(r"\1", value)
