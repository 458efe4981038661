"""JobSet for tests: its API on the real API server, and a stand-in for its controller.

The CustomResourceDefinition is written here after JobSet's published API (Apache 2.0; jobset.x-k8s.io v1alpha2): the
fields that are used, with their bounds and the rule that replicatedJobs never change.
"""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.operator.harness import Cluster
from tools.cluster.api_client import MERGE, Refused

GROUP, VERSION = "jobset.x-k8s.io", "v1alpha2"
_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_REPLICATED = {
    "type": "object",
    "required": ["name", "template"],
    "properties": {
        "name": {"type": "string", "maxLength": 63},
        "replicas": {"type": "integer", "default": 1, "minimum": 0},
        "template": _ANY,
    },
}
_SPEC = {
    "type": "object",
    "properties": {
        "replicatedJobs": {
            "type": "array",
            "items": _REPLICATED,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        "network": {"type": "object", "properties": {"enableDNSHostnames": {"type": "boolean"}}},
        "failurePolicy": {
            "type": "object",
            "properties": {"maxRestarts": {"type": "integer", "minimum": 0, "default": 0}},
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "Value is immutable"}],
        },
        "suspend": {"type": "boolean"},
    },
}


def crd() -> dict[str, Any]:
    """JobSet."""
    schema = {"type": "object", "properties": {"spec": _SPEC, "status": _ANY}}
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"jobsets.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": "JobSet", "plural": "jobsets", "singular": "jobset", "listKind": "JobSetList"},
            "versions": [version],
        },
    }


@dataclass
class JobSetController:
    """Makes the Jobs of JobSets of one namespace, makes them anew when they are deleted, and tells how they end."""

    cluster: Cluster
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def __enter__(self) -> JobSetController:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        if self.thread is not None:
            self.thread.join(10)

    def path(self, name: str = "", subresource: str = "") -> str:
        """URL of JobSets."""
        root = f"/apis/{GROUP}/{VERSION}/namespaces/{self.cluster.namespace}/jobsets"
        return "/".join(part for part in (root, name, subresource) if part)

    def names(self) -> list[str]:
        """The JobSets that there are."""
        items = self.cluster.server.client.request("GET", self.path())["items"]
        return sorted(item["metadata"]["name"] for item in items)

    def _run(self) -> None:
        while not self.stopping.wait(0.1):
            for job_set in self.cluster.server.client.request("GET", self.path())["items"]:
                try:
                    self._reconcile(job_set)
                except Refused as refused:
                    if refused.status not in (404, 409):
                        raise

    def _reconcile(self, job_set: dict[str, Any]) -> None:
        meta = job_set["metadata"]
        if meta.get("deletionTimestamp") or (job_set.get("status") or {}).get("conditions"):
            return
        root = f"/apis/batch/v1/namespaces/{self.cluster.namespace}/jobs"
        there = {job["metadata"]["name"]: job for job in self.cluster.server.client.request("GET", root)["items"]}
        jobs = []
        for item in job_set["spec"]["replicatedJobs"]:
            name = f"{meta['name']}-{item['name']}-0"
            if name not in there:
                there[name] = self.cluster.server.client.request("POST", root, _job(job_set, item, name))
            jobs.append(there[name])
        said = {
            job["metadata"]["name"]: condition["type"]
            for job in jobs
            for condition in (job.get("status") or {}).get("conditions") or []
            if condition["status"] == "True"
        }
        if "Failed" in said.values():
            self._end(meta["name"], "Failed", "FailedJobs")
            for job in jobs:
                name = job["metadata"]["name"]
                if name not in said:
                    body = {"propagationPolicy": "Background"}
                    self.cluster.server.client.request("DELETE", f"{root}/{name}", body)
        elif list(said.values()) == ["Complete"] * len(jobs):
            self._end(meta["name"], "Completed", "AllJobsCompleted")

    def _end(self, name: str, kind: str, reason: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {"type": kind, "status": "True", "reason": reason, "message": reason, "lastTransitionTime": now}
        body = {"status": {"conditions": [said], "terminalState": kind}}
        self.cluster.server.client.request("PATCH", self.path(name, "status"), body, MERGE)


def _job(job_set: dict[str, Any], item: dict[str, Any], name: str) -> dict[str, Any]:
    meta, template = job_set["metadata"], copy.deepcopy(item["template"])
    owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "JobSet", "name": meta["name"], "uid": meta["uid"]}
    marks = {f"{GROUP}/jobset-name": meta["name"], f"{GROUP}/replicatedjob-name": item["name"]}
    template["metadata"]["labels"] |= marks
    template["spec"]["template"]["metadata"]["labels"] |= marks
    template["metadata"] |= {"name": name, "ownerReferences": [{**owner, "controller": True}]}
    template["spec"].pop("completionMode", None)  # unknown to Kubernetes 1.20
    return template
