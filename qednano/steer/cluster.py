"""Runs of a cluster, through the kubeconfig that kubectl uses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlencode

from pydantic import ValidationError

from qednano.api import GROUP, KINDS, VERSION, RunStatus
from qednano.errors import QedError, UsageError
from qednano.steer.interface import Listed
from qednano.steer.server import APPLY, MERGE, Refused, Server

if TYPE_CHECKING:
    from qednano.api.load import Document

_LABEL = "qednano.dev/"


def _path(namespace: str, plural: str, name: str = "") -> str:
    place = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{place}{plural}{f'/{name}' if name else ''}"


class ClusterRuns:
    """The runs of one namespace, or of all when ``everywhere`` is true."""

    def __init__(self, namespace: str = "", context: str = "", everywhere: bool = False) -> None:
        self.server = Server(context)
        self._namespace = "" if everywhere else namespace or self.server.connection.namespace

    @property
    def about(self) -> str:
        """In which namespace."""
        return f"in namespace {self._namespace}" if self._namespace else "in any namespace"

    @property
    def namespace(self) -> str:
        """The namespace that is meant; empty for all."""
        return self._namespace

    def get(self, path: str) -> Any:
        """What the API server answers on a path, as JSON."""
        return self.server.request("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The same with a body."""
        return self.server.request("POST", path, body)

    def apply(self, documents: Sequence[Document], dry: bool = False) -> list[Listed]:
        """Apply manifests server-side, as `kubectl apply` does; with ``dry`` the API server only checks them."""
        said = []
        for document in documents:
            run = document.run
            body = run.model_dump(by_alias=True, mode="json", exclude_unset=True, exclude_none=True)
            own = "namespace" in run.metadata.model_fields_set
            namespace = body["metadata"]["namespace"] = run.metadata.namespace if own else self._namespace
            path = _path(namespace, KINDS[run.kind].plural, run.metadata.name)
            applied = self.server.request(
                "PATCH",
                f"{path}?fieldManager=qednano&force=true{'&dryRun=All' if dry else ''}",
                body,
                f"{document.file}:{document.line}: {run.kind}/{run.metadata.name}",
                APPLY,
            )
            said.append(listed(run.kind, applied))
        return said

    def runs(self) -> list[Listed]:
        """Every run of the namespace, oldest first."""
        return [listed(kind, item) for kind, item in self.objects()]

    def objects(self) -> list[tuple[str, dict[str, Any]]]:
        """(kind, object) of every run of the namespace, oldest first."""
        lists = self.server.wait_for(self._lists())
        found = [(kind, item) for kind, answer in zip(KINDS, lists, strict=True) for item in answer["items"]]
        return sorted(found, key=lambda pair: str(pair[1]["metadata"]["creationTimestamp"]))

    async def _lists(self) -> list[Any]:
        """The lists of all kinds, asked for at once."""
        asked = [
            self.server.ask("GET", _path(self._namespace, kind.plural), what=f"listing {kind.plural}")
            for kind in KINDS.values()
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def _patch(self, run: Listed, spec: dict[str, Any]) -> None:
        if run.ended:
            raise UsageError(f"{run.label} has ended ({run.phase})")
        path = _path(run.namespace, KINDS[run.kind].plural, run.name)
        self.server.request("PATCH", path, {"spec": spec}, f"changing {run.label}", MERGE)

    def suspend(self, run: Listed) -> str:
        """Set spec.suspend."""
        self._patch(run, {"suspend": True})
        return f"{run.label} saves and stops; `qednano resume {run.name}` goes on"

    def resume(self, run: Listed) -> str:
        """Take spec.suspend back."""
        self._patch(run, {"suspend": False})
        return f"{run.label} goes on from its last checkpoint"

    def cancel(self, run: Listed) -> str:
        """Set spec.cancel."""
        self._patch(run, {"cancel": True})
        return f"{run.label} saves and ends for good; what it has saved stays on its volume"

    def logs(self, run: Listed, role: str, lines: int, follow: bool, out: TextIO) -> None:
        """Print the newest logs of the run's pods, each line with its role where there are several."""
        where = {"kind": run.kind, "run": run.name, **({"role": role} if role else {})}
        query = urlencode({"labelSelector": ",".join(f"{_LABEL}{key}={value}" for key, value in where.items())})
        pods = self.server.request("GET", f"/api/v1/namespaces/{run.namespace}/pods?{query}", what="listing pods")[
            "items"
        ]
        if not pods:
            raise UsageError(f"{run.label} has no pod{f' of role {role}' if role else ''} now, and so no log")
        newest: dict[str, dict[str, Any]] = {}
        for pod in sorted(pods, key=lambda item: str(item["metadata"]["creationTimestamp"])):
            meta = pod["metadata"]
            labels = meta["labels"]
            newest[f"{labels.get(_LABEL + 'role')}-{labels.get(_LABEL + 'index', meta['name'])}"] = meta
        work = [
            self._log(meta, f"{name} | " if len(newest) > 1 else "", lines, follow, out)
            for name, meta in newest.items()
        ]
        self.server.wait_for(_together(work) if follow else _one_by_one(work))

    async def _log(self, meta: dict[str, Any], prefix: str, lines: int, follow: bool, out: TextIO) -> None:
        query = {**({"tailLines": lines} if lines else {}), **({"follow": "true"} if follow else {})}
        rest = b""
        try:
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log?{urlencode(query)}"
            async for chunk in self.server.chunks(path):
                *whole, rest = (rest + chunk).split(b"\n")
                out.write("".join(f"{prefix}{line.decode(errors='replace')}\n" for line in whole))
                out.flush()
        except Refused as error:
            out.write(f"{prefix}({error.message or error.words})\n")  # waits for its image, say
        except QedError as error:
            out.write(f"{prefix}({error})\n")  # the other logs go on
        if rest:
            out.write(f"{prefix}{rest.decode(errors='replace')}\n")


async def _together(work: Sequence[Any]) -> None:
    await asyncio.gather(*work)


async def _one_by_one(work: Sequence[Any]) -> None:
    for item in work:
        await item


def listed(kind: str, item: dict[str, Any]) -> Listed:
    """The run that an object of the API server is."""
    meta = item["metadata"]
    try:
        status = RunStatus.model_validate(item.get("status") or {})
    except ValidationError:
        status = None  # a newer operator's
    return Listed(kind, meta["namespace"], meta["name"], status, meta["namespace"])
