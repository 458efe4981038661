"""The only module that talks to the API server: plain dicts in and out, typed errors, never blocking."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from kubernetes.aio import client, config

from qednano.api import API_VERSION, KINDS
from qednano_operator import metrics
from qednano_operator.clock import Clock

FIELD_MANAGER = "qednano-operator"
_TIMEOUT = 30.0
_PAGE = 500
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}  # as in a Role

Object = dict[str, Any]


class KubeError(Exception):
    """A request to the API server that failed; ``status`` is 0 when there was no answer."""

    status = 0


class ApiError(KubeError):
    """The API server refused, failed, or could not be reached."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or message  # the server's own words


class NotFound(KubeError):
    """The object does not exist."""

    status = 404


class Conflict(KubeError):
    """The object changed in between, or exists already."""

    status = 409


class Throttled(KubeError):
    """The API server asks to come back after ``retry_after`` seconds."""

    status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Resource:
    """Where a kind is served."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, an object, or its subresource; namespace None is all of them."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural]
        return "/".join([*parts, *([name] if name else []), *([subresource] if subresource else [])])


RESOURCES: dict[str, Resource] = {
    **{name: Resource(API_VERSION, kind.plural) for name, kind in KINDS.items()},
    "Job": Resource("batch/v1", "jobs"),
    "StatefulSet": Resource("apps/v1", "statefulsets"),
    "Pod": Resource("v1", "pods"),
    "Service": Resource("v1", "services"),
    "ConfigMap": Resource("v1", "configmaps"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Event": Resource("v1", "events"),
    "Secret": Resource("v1", "secrets"),  # the one of the webhook's certificate
    "ValidatingWebhookConfiguration": Resource("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"),
    "ResourceQuota": Resource("v1", "resourcequotas"),
    "PriorityClass": Resource("scheduling.k8s.io/v1", "priorityclasses"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
}


def speak_kueue(api_version: str) -> None:
    """Use this version of Kueue's API, which discovery has found."""
    for kind, plural in (("Workload", "workloads"), ("ResourceFlavor", "resourceflavors")):
        RESOURCES[kind] = Resource(api_version, plural)


def speak_jobset(api_version: str) -> None:
    """Use this version of JobSet's API, which discovery has found."""
    RESOURCES["JobSet"] = Resource(api_version, "jobsets")


def optional_children() -> tuple[str, ...]:
    """Kinds of a run's objects that this cluster serves beside Kubernetes' own."""
    return tuple(kind for kind in ("Workload", "JobSet") if kind in RESOURCES)


class Kube:
    """One connection to the API server."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.clock = Clock()

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """The object; NotFound when there is none."""
        return await self._request("GET", RESOURCES[kind].path(namespace, name), kind)

    async def pages(self, kind: str, namespace: str | None, labels: str = "") -> AsyncIterator[Sequence[Object]]:
        """Every object of the kind, a page at a time."""
        query = {"limit": str(_PAGE)} | ({"labelSelector": labels} if labels else {})
        while True:
            page = await self._request("GET", RESOURCES[kind].path(namespace), kind, query=query)
            yield page.get("items") or []
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return

    async def apply(self, obj: Object) -> Object:
        """Server-side apply: fields of ours that others changed are taken back."""
        meta = obj["metadata"]
        return await self._request(
            "PATCH",
            RESOURCES[obj["kind"]].path(meta["namespace"], meta["name"]),
            obj["kind"],
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=obj,
            content_type="application/apply-patch+yaml",
        )

    async def create(self, obj: Object) -> Object:
        """Create the object; Conflict when it exists."""
        meta = obj["metadata"]
        path = RESOURCES[obj["kind"]].path(meta["namespace"])
        return await self._request("POST", path, obj["kind"], query={"fieldManager": FIELD_MANAGER}, body=obj)

    async def replace(self, obj: Object) -> Object:
        """Replace the object; Conflict when its resourceVersion is not the newest."""
        meta = obj["metadata"]
        path = RESOURCES[obj["kind"]].path(meta.get("namespace"), meta["name"])
        return await self._request("PUT", path, obj["kind"], query={"fieldManager": FIELD_MANAGER}, body=obj)

    async def delete(self, kind: str, namespace: str, name: str, uid: str = "", force: bool = False) -> None:
        """Delete the object, its dependents in the background; no error when it is gone.

        Conflict when a namesake took over, which the watch is about to tell, or when the server wants it asked again.
        With ``force`` a pod goes without its node's word that it has ended.
        """
        body: Object = {"propagationPolicy": "Background"}
        if force:
            body["gracePeriodSeconds"] = 0
        if uid:
            body["preconditions"] = {"uid": uid}
        with contextlib.suppress(NotFound):
            await self._request("DELETE", RESOURCES[kind].path(namespace, name), kind, body=body)

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Object, resource_version: str) -> Object:
        """Merge ``patch`` into the status; Conflict when the object has changed since ``resource_version``."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": patch}
        return await self._request(
            "PATCH",
            RESOURCES[kind].path(namespace, name, "status"),
            kind,
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            content_type="application/merge-patch+json",
        )

    async def patch_finalizers(
        self, kind: str, namespace: str, name: str, finalizers: Sequence[str], resource_version: str
    ) -> Object:
        """Replace the finalizers; Conflict when the object has changed since ``resource_version``."""
        return await self._request(
            "PATCH",
            RESOURCES[kind].path(namespace, name),
            kind,
            query={"fieldManager": FIELD_MANAGER},
            body={"metadata": {"resourceVersion": resource_version, "finalizers": [*finalizers]}},
            content_type="application/merge-patch+json",
        )

    async def served(self, api_version: str) -> set[str]:
        """Plurals served under the group and version; empty when it is not served."""
        try:
            found = await self._request("GET", f"/apis/{api_version}", "APIResourceList")
        except NotFound:
            return set()
        return {resource["name"] for resource in found.get("resources") or []}

    async def _request(
        self,
        method: str,
        path: str,
        kind: str,
        *,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content_type, **self._api.default_headers}
        auth = await self._api.configuration.auth_settings()
        if "BearerToken" in auth:
            headers["Authorization"] = auth["BearerToken"]["value"]
        started = time.monotonic()
        status = 0
        try:
            response = await self._api.call_api(method, url, headers, body, _request_timeout=_TIMEOUT)
            status = response.status
            if status < 500:  # else it may be a gateway's
                self.clock.learn(response.headers.get("Date"), started)
            data: bytes = await response.read()  # type: ignore[no-untyped-call]
            retry_after = response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"the API server did not answer {method} {path}: {error or type(error).__name__}") from None
        finally:
            verb = "list" if query and "limit" in query else _VERBS[method]
            metrics.API_REQUESTS.labels(verb, kind, str(status)).inc()
            metrics.API_SECONDS.labels(verb).observe(time.monotonic() - started)
        if status >= 400:
            raise _error(method, path, status, data, retry_after)
        found: Object = json.loads(data)
        return found


def _error(method: str, path: str, status: int, data: bytes, retry_after: str | None) -> KubeError:
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data[:200].decode(errors="replace")
    text = f"{method} {path}: {message} ({status})"
    if status == 404:
        return NotFound(text)
    if status == 409:
        return Conflict(text)
    if status == 429 or (status == 503 and retry_after):
        wait = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return Throttled(text, min(wait, 60.0))
    return ApiError(text, status, message)


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[Kube]:
    """A connection: the pod's own service account, or else what KUBECONFIG names."""
    configuration = client.Configuration()
    if in_cluster():
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.connection_pool_maxsize = 64
    # Proxies are found once, here: told to trust the environment, aiohttp starts a thread for every single request,
    # which looks for a ~/.netrc.
    configuration.proxy = configuration.proxy or _proxy(configuration.host)
    configuration.client_session_kwargs = {"trust_env": False}
    async with client.ApiClient(configuration=configuration) as api:
        api.user_agent = FIELD_MANAGER
        yield Kube(api)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for this server, by HTTPS_PROXY and NO_PROXY."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def in_cluster() -> bool:
    """Whether this process runs in a pod and no KUBECONFIG says otherwise."""
    return not os.environ.get("KUBECONFIG") and _SERVICE_ACCOUNT.is_file()
