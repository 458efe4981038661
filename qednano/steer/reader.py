"""Read finished artifacts off a run's volume: a short-lived pod that mounts it read-only, and a command in it.

The pod is made like those of the runs themselves: the same image, user, claim and placement, without their
configuration, Secrets or devices, so whatever may run there may read there. Nothing listens; bytes come through the
API server's exec. The artifact's manifest says what must come, and each file is checked against its sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from qednano.artifacts import MANIFEST, Manifest, publish, staging
from qednano.errors import ArtifactError, ConfigError, QedError, Unavailable, UsageError
from qednano.plan.waiting import IMAGE_MISSING, START_REFUSED
from qednano.steer.interface import Listed
from qednano.steer.server import Server

VOLUME = "/qed"
_LABEL = "qednano.dev/"
_LIFE = 1800  # seconds; a pod whose maker has died ends by itself
_PATIENCE = 180.0  # seconds for an image and a node
_ROLES = ("evaluate", "dataset", "actor")  # of the worker image, which is the smallest one
_KEPT = (
    "securityContext", "imagePullSecrets", "serviceAccountName", "nodeSelector", "tolerations", "runtimeClassName"
)  # fmt: skip
# The manifest with its length before it, then every file it lists, in the order of their names.
_SEND = """\
import json, shutil, sys
folder, out = sys.argv[1], sys.stdout.buffer
text = open(folder + "/manifest.json", "rb").read()
out.write(b"%d\\n" % len(text) + text)
for name in sorted(json.loads(text)["files"]):
    with open(folder + "/" + name, "rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
out.flush()
"""


def like(jobs: Sequence[dict[str, Any]], claim: str, run: str) -> dict[str, Any] | None:
    """The Job whose pods are the best pattern for a reader of the claim; None when no Job mounts it."""

    def rank(job: dict[str, Any]) -> tuple[bool, bool, str]:
        meta = job["metadata"]
        labels = meta.get("labels") or {}
        return (
            labels.get(_LABEL + "role") in _ROLES,
            labels.get(_LABEL + "run") == run,
            str(meta.get("creationTimestamp")),
        )

    def mounts(job: dict[str, Any]) -> bool:
        volumes = job["spec"]["template"]["spec"].get("volumes") or []
        return any((volume.get("persistentVolumeClaim") or {}).get("claimName") == claim for volume in volumes)

    return max((job for job in jobs if mounts(job)), key=rank, default=None)


def pod_of(job: dict[str, Any], claim: str, name: str) -> dict[str, Any]:
    """A pod that mounts the claim read-only and waits, made like the Job's."""
    pattern = job["spec"]["template"]["spec"]
    container = pattern["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "qednano", _LABEL + "reader": "true"}},
        "spec": {
            **{key: pattern[key] for key in _KEPT if key in pattern},
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _LIFE,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "reader",
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy", "IfNotPresent"),
                    "command": ["python", "-c", f"import time; time.sleep({_LIFE})"],
                    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                    **({"securityContext": container["securityContext"]} if "securityContext" in container else {}),
                    "volumeMounts": [{"name": "storage", "mountPath": VOLUME, "readOnly": True}],
                }
            ],
            "volumes": [{"name": "storage", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        },
    }


def obstacle(pod: dict[str, Any]) -> tuple[str, bool]:
    """(why the pod does not run yet, whether waiting is of no use); ('', False) once it runs."""
    status = pod.get("status") or {}
    if status.get("phase") == "Running":
        return "", False
    if status.get("phase") in ("Failed", "Succeeded"):
        return str(status.get("message") or f"it has ended ({status.get('reason') or status['phase']})"), True
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason in IMAGE_MISSING:
            return f"{IMAGE_MISSING[reason]} {container.get('image')}", reason != "ErrImagePull"
        if reason in START_REFUSED:
            return str(waiting.get("message") or reason), True
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"can't be scheduled: {' '.join(str(condition.get('message', '')).split())}", False
    return "waits for its node", False


class Incoming:
    """Takes what `_SEND` writes, in pieces of any size, and puts the files into a folder, each checked as it ends."""

    def __init__(self, folder: Path, tell: Callable[[int], None] = lambda total: None) -> None:
        self._folder, self._tell = folder, tell
        self._head = b""
        self._names: list[str] = []
        self._file: IO[bytes] | None = None
        self._left, self._hash = 0, hashlib.sha256()
        self.manifest: Manifest | None = None

    def take(self, data: bytes) -> None:
        """The next bytes. Raises ArtifactError for what is no artifact, or differs from its manifest."""
        if self.manifest is None:
            self._head += data
            line, found, rest = self._head.partition(b"\n")
            if not found or len(rest) < int(line):
                return
            self._begin(rest[: int(line)])
            data, self._head = rest[int(line) :], b""
        view = memoryview(data)
        while self._file is not None:
            part = view[: self._left]
            self._file.write(part)
            self._hash.update(part)
            self._left -= len(part)
            view = view[len(part) :]
            if self._left:
                return
            self._close()
        if len(view):
            raise ArtifactError("more came than the manifest lists; try again")

    def _begin(self, text: bytes) -> None:
        try:
            self.manifest = Manifest.model_validate_json(text)
        except ValueError:
            raise ArtifactError("its manifest can't be read; run it again") from None
        for name in self.manifest.files:
            if name.startswith("/") or ".." in Path(name).parts:
                raise ArtifactError(f"its manifest lists {name!r}, which is outside of it")
        (self._folder / MANIFEST).write_bytes(text)
        self._names = sorted(self.manifest.files, reverse=True)
        self._tell(sum(entry.size for entry in self.manifest.files.values()))
        self._open()

    def _open(self) -> None:
        self._file = None
        if self._names and self.manifest:
            path = self._folder / self._names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._hash = path.open("xb"), hashlib.sha256()
            self._left = self.manifest.files[self._names[-1]].size

    def _close(self) -> None:
        assert self._file is not None and self.manifest is not None
        self._file.close()
        name = self._names.pop()
        if self._hash.hexdigest() != self.manifest.files[name].sha256:
            raise ArtifactError(f"{name} differs from what {MANIFEST} says: it was changed or is damaged")
        self._open()

    def finish(self) -> None:
        """All has come. Raises ArtifactError when something is missing."""
        if self.manifest is None or self._file is not None:
            self.abandon()
            raise ArtifactError(f"it broke off{f' in {self._names[-1]}' if self._names else ''}; try again")

    def abandon(self) -> None:
        """Nothing more will come."""
        if self._file is not None:
            self._file.close()


class Reader:
    """The reader pod of a claim while it is there."""

    def __init__(self, server: Server, namespace: str, pod: str) -> None:
        self._server, self._namespace, self._pod = server, namespace, pod

    def fetch(self, run: Listed, uri: str, final: Path, tell: Callable[[str], None]) -> None:
        """Copy the artifact at ``uri`` to the folder ``final``, all of it or nothing. Raises QedError."""
        if not uri.startswith(f"{VOLUME}/") or ".." in Path(uri).parts:
            raise ConfigError(f"{run.label} has its artifact at {uri}, which is not on its volume; read it there")
        with staging(final) as folder:
            coming = Incoming(folder, lambda size: tell(f"fetching {_size(size)} of {run.label}"))
            what = f"reading the artifact of {run.label}"
            command = ["python", "-c", _SEND, uri]
            try:
                self._server.wait_for(self._server.execute(self._namespace, self._pod, command, coming.take, what))
                coming.finish()
            except ArtifactError as error:
                raise ArtifactError(f"{what}: {error}") from None
            except OSError as error:
                raise UsageError(f"{final} can't be written ({error.strerror})") from None
            finally:
                coming.abandon()
            publish(folder, final)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


@contextlib.contextmanager
def reading(
    server: Server, run: Listed, claim: str, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Iterator[Reader]:
    """A reader of the claim in the run's namespace; its pod goes at the end. Raises QedError when it can't be had."""
    pods = f"/api/v1/namespaces/{run.namespace}/pods"
    jobs = server.request(
        "GET", f"/apis/batch/v1/namespaces/{run.namespace}/jobs?labelSelector={_LABEL}run", what="listing jobs"
    )["items"]
    pattern = like(jobs, claim, run.name)
    if pattern is None:
        raise UsageError(
            f"no Job in namespace {run.namespace} mounts the claim {claim}, so nothing says which image can read it; "
            "copy the artifact from a pod of yours"
        )
    name = f"qednano-reader-{secrets.token_hex(3)}"
    tell(f"starting pod {name} in namespace {run.namespace} to read claim {claim}")
    server.request("POST", pods, pod_of(pattern, claim, name), f"making the pod {name} that reads claim {claim}")
    try:
        _wait(server, f"{pods}/{name}", name, clock)
        yield Reader(server, run.namespace, name)
    finally:
        with contextlib.suppress(QedError):  # it ends by its deadline, too
            server.request("DELETE", f"{pods}/{name}", {"gracePeriodSeconds": 0}, f"deleting the pod {name}")


def _wait(server: Server, path: str, name: str, clock: Callable[[], float]) -> None:
    began = clock()
    while True:
        why, hopeless = obstacle(server.request("GET", path, what=f"waiting for the pod {name}"))
        if not why:
            return
        if hopeless or clock() - began > _PATIENCE:
            raise Unavailable(f"the pod {name} that would read the volume does not run: {why}")
        time.sleep(0.5)
