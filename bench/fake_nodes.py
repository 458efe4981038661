"""Fake nodes for benches of operators: a small, fast stand-in for kube-controller-manager and kubelets.

It watches Jobs, StatefulSets, Deployments and Pods of one real API server, makes the pods bound to a node, marks them
Running and Ready, ends them when it is told to, and lets go of those that are deleted. Every pod has the same address,
where `GET /progress` is answered as a job answers it, each time on a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from qednano.progress import ProgressReport
from tests.kube.apiserver import ApiServer

NODE, POD_ADDRESS, PROGRESS_PORT = "fake-node", "127.88.0.1", 9090
_AT_ONCE = 24  # requests under way

Object = dict[str, Any]
MERGE = "application/merge-patch+json"


class Client:
    """A fast asynchronous connection to the API server, as its administrator."""

    def __init__(self, server: ApiServer) -> None:
        self._url, self._token = server.client.url, server.client.token
        self._tls = ssl.create_default_context(cafile=str(server.client.authority))
        self._session: aiohttp.ClientSession | None = None
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Client:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        headers = {"Authorization": f"Bearer {self._token}"}
        self._session = aiohttp.ClientSession(self._url, connector=connector, headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def request(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Any:
        """One request; the decoded answer. A 404 or 409 is an answer too: what was asked for is so already."""
        assert self._session is not None
        data = None if body is None else json.dumps(body)
        async with self._gate, self._session.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
            text = await answer.text()
            if answer.status >= 300 and answer.status not in (404, 409):
                raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:300]}")
            return json.loads(text)

    async def watch(self, path: str, selector: str = "") -> AsyncIterator[tuple[str, Object]]:
        """(event type, object) from the beginning, for ever; what exists comes first as ADDED."""
        assert self._session is not None
        parameters = {"watch": "1", "timeoutSeconds": "3600", "labelSelector": selector}
        timeout = aiohttp.ClientTimeout(total=None)
        while True:  # a watcher that is slow for a moment is cut off
            async with self._session.get(path, params=parameters, timeout=timeout, read_bufsize=1 << 24) as stream:
                async for line in stream.content:
                    event = json.loads(line)
                    if event["type"] != "ERROR":
                        yield event["type"], event["object"]


@contextlib.asynccontextmanager
async def fake_nodes(server: ApiServer, selector: str = "qednano.dev/run") -> AsyncIterator[FakeNodes]:
    """Fake nodes for pods and their owners of that label, until the block ends."""
    async with (
        Client(server) as controllers,
        Client(server) as kubelets,
        FakeNodes(controllers, kubelets, selector).playing() as nodes,
    ):
        yield nodes


def pod_path(pod: Object, subresource: str = "") -> str:
    """The URL path of a pod."""
    meta = pod["metadata"]
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
    return f"{path}/{subresource}" if subresource else path


def _container(pod: Object, ready: bool, state: Object) -> Object:
    name = pod["spec"]["containers"][0]["name"]
    return {"name": name, "image": "x", "imageID": "", "ready": ready, "restartCount": 0, "state": state}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class FakeNodes:
    """Plays controllers and kubelets, each with a connection of its own: one's queue does not hold the other up.
    `made` is told each pod as soon as the API server has it."""

    def __init__(self, controllers: Client, kubelets: Client, selector: str) -> None:
        self._controllers, self._kubelets, self._selector = controllers, kubelets, selector
        self.made: Callable[[Object], None] = lambda pod: None
        self._owned: dict[str, list[Object]] = {}  # uid of a Job or StatefulSet to its pods
        self.pods: dict[str, Object] = {}  # by uid, those that exist
        self._working: set[asyncio.Task[None]] = set()
        self.report = ProgressReport(stage="train", step=1, total=100, unit="step", updated=time.time())
        self.asked = 0  # questions for progress
        self.moving = False  # whether every question finds another step
        self.run_pods = True

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[FakeNodes]:
        """Watch and act until the block ends."""
        runner = await self._serve_progress()
        for owners in ("batch/v1/jobs", "apps/v1/statefulsets", "apps/v1/deployments"):
            self._spawn(self._follow(f"/apis/{owners}", self._owner))
        self._spawn(self._follow("/api/v1/pods", self._pod))
        try:
            yield self
        finally:
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
            await runner.cleanup()

    async def end(self, pod: Object, code: int, words: Object) -> None:
        """The pod's process ends, and with it its Job."""
        state = {
            "terminated": {
                "exitCode": code, "reason": "Error" if code else "Completed", "message": json.dumps(words),
                "startedAt": _now(), "finishedAt": _now(),
            }
        }  # fmt: skip
        phase = "Failed" if code else "Succeeded"
        status = {"phase": phase, "conditions": [], "containerStatuses": [_container(pod, False, state)]}
        await self._kubelets.request("PATCH", pod_path(pod, "status"), {"status": status}, MERGE)
        job = pod["metadata"]["labels"].get("job-name")
        if job:
            kind = "Failed" if code else "Complete"
            told: Object = {"conditions": [{"type": kind, "status": "True"}], "active": 0}
            path = f"/apis/batch/v1/namespaces/{pod['metadata']['namespace']}/jobs/{job}/status"
            await self._controllers.request("PATCH", path, {"status": told}, MERGE)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and task.exception() is not None:
            print(f"fake nodes: {task.exception()!r}")

    async def _follow(self, path: str, act: Callable[[str, Object], None]) -> None:
        async for kind, obj in self._controllers.watch(path, self._selector):
            act(kind, obj)

    def _owner(self, event: str, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        if event == "DELETED":
            for pod in self._owned.pop(uid, []):
                self._spawn(self._remove(pod))
        elif uid not in self._owned:
            self._owned[uid] = []
            spec = obj["spec"]
            kind = "StatefulSet" if "serviceName" in spec else "Deployment" if "replicas" in spec else "Job"
            for index in range(spec.get("replicas", spec.get("parallelism", 1))):
                end = index if kind == "StatefulSet" else f"{uid[:5]}-{index}"
                self._spawn(self._make(obj, kind, f"{obj['metadata']['name']}-{end}"))

    async def _make(self, owner: Object, kind: str, name: str) -> None:
        meta, template = owner["metadata"], owner["spec"]["template"]
        marks = {"job-name": meta["name"], "controller-uid": meta["uid"]} if kind == "Job" else {}
        version = "batch/v1" if kind == "Job" else "apps/v1"
        reference = {"apiVersion": version, "kind": kind, "name": meta["name"], "uid": meta["uid"], "controller": True}
        pod = {
            "metadata": {
                "name": name, "namespace": meta["namespace"], "ownerReferences": [reference],
                "labels": {**template["metadata"].get("labels", {}), **marks},
            },
            "spec": {**template["spec"], "nodeName": NODE},
        }  # fmt: skip
        made = await self._controllers.request("POST", f"/api/v1/namespaces/{meta['namespace']}/pods", pod)
        if "spec" not in made:  # it exists already
            return
        self.made(made)
        if meta["uid"] in self._owned:
            self._owned[meta["uid"]].append(made)
        if self.run_pods:
            await self.start(made)

    async def start(self, pod: Object) -> None:
        """The pod runs and is ready."""
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready")]
        container = _container(pod, True, {"running": {"startedAt": _now()}})
        status = {
            "phase": "Running", "podIP": POD_ADDRESS, "conditions": conditions, "containerStatuses": [container],
        }  # fmt: skip
        await self._kubelets.request("PATCH", pod_path(pod, "status"), {"status": status}, MERGE)

    def _pod(self, event: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if event == "DELETED":
            self.pods.pop(uid, None)
            return
        self.pods[uid] = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._spawn(self._remove(pod))

    async def _remove(self, pod: Object) -> None:
        await self._kubelets.request("DELETE", pod_path(pod), {"gracePeriodSeconds": 0})

    async def _serve_progress(self) -> web.AppRunner:
        async def progress(_: web.Request) -> web.Response:
            self.asked += 1
            if self.moving:
                self.report = self.report.model_copy(update={"step": self.asked, "updated": time.time()})
            return web.Response(body=self.report.model_dump_json(by_alias=True), headers={"Connection": "close"})

        app = web.Application()
        app.router.add_get("/progress", progress)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, POD_ADDRESS, PROGRESS_PORT).start()
        return runner
