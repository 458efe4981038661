"""Puts the 1.36 server of custom resources behind the 1.20 API server, so that clients see one cluster.

`python -m tools.cluster.aggregation KUBECONFIG` keeps one APIService for every group and version of an established
CRD. An APIService nobody serves would break discovery (and the deletion of namespaces), so each comes after its CRD
is served and goes before the CRD's last version has.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

from tools.cluster.api_client import MERGE, ApiClient, Refused

SERVICE = "apiextensions"
NAMESPACE = "kube-system"
CRD_GROUP, CRD_VERSION = "apiextensions.k8s.io", "v1"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
_LABEL = "qednano.dev/crd-group"


def aggregate(client: ApiClient, port: int, authority: Path) -> None:
    """Sends requests for CRDs to the server on `port` of this host."""
    client.apply(
        f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port, "protocol": "TCP"}]},
        },
    )
    bundle = base64.b64encode(authority.read_bytes()).decode()
    # The API server makes this object once, when it starts, and leaves it alone after.
    client.request(
        "PATCH",
        f"{_API_SERVICES}/{CRD_VERSION}.{CRD_GROUP}",
        {"spec": {"caBundle": bundle, "service": {"name": SERVICE, "namespace": NAMESPACE, "port": port}}},
        MERGE,
    )
    for item in client.request("GET", f"{_API_SERVICES}?labelSelector={_LABEL}")["items"]:
        client.request(
            "PATCH", f"{_API_SERVICES}/{item['metadata']['name']}", {"spec": {"service": {"port": port}}}, MERGE
        )


def available(client: ApiClient, version: str, group: str) -> bool:
    """Whether the aggregator reaches the server that serves this group and version."""
    try:
        found = client.request("GET", f"{_API_SERVICES}/{version}.{group}")
    except (Refused, OSError):
        return False
    conditions = found.get("status", {}).get("conditions") or []
    return found["spec"].get("service") is not None and any(
        condition["type"] == "Available" and condition["status"] == "True" for condition in conditions
    )


def served(crds: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """(group, version) of every version that an established CRD serves."""
    return {
        (crd["spec"]["group"], version["name"])
        for crd in crds
        if "deletionTimestamp" not in crd["metadata"]
        and any(
            condition["type"] == "Established" and condition["status"] == "True"
            for condition in crd.get("status", {}).get("conditions") or []
        )
        for version in crd["spec"]["versions"]
        if version["served"]
    }


def synchronise(client: ApiClient) -> str:
    """Makes the APIServices match the CRDs; returns the resourceVersion of the list of CRDs it saw."""
    crds = client.request("GET", _CRDS)
    wanted = served(crds["items"])
    there = client.request("GET", f"{_API_SERVICES}?labelSelector={_LABEL}")["items"]
    have = {(item["spec"]["group"], item["spec"]["version"]) for item in there}
    for group, version in have - wanted:
        client.request("DELETE", f"{_API_SERVICES}/{version}.{group}")
    parent = client.request("GET", f"{_API_SERVICES}/{CRD_VERSION}.{CRD_GROUP}")["spec"]
    for group, version in sorted(wanted - have):
        # Not a server-side apply: 1.20 has none for APIServices, and panics when asked.
        client.request(
            "POST",
            _API_SERVICES,
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"{version}.{group}", "labels": {_LABEL: group.replace("/", ".")[:63]}},
                "spec": {
                    "group": group,
                    "version": version,
                    "groupPriorityMinimum": 1000,
                    "versionPriority": 100,
                    "caBundle": parent["caBundle"],
                    "service": parent["service"],
                },
            },
        )
    return str(crds["metadata"]["resourceVersion"])


def follow(client: ApiClient) -> None:
    """Synchronises at every change of a CRD, for ever."""
    while True:
        try:
            version = synchronise(client)
            for _ in client.watch(_CRDS, version):
                synchronise(client)
        except (Refused, OSError, ValueError) as error:
            # A server restarting, a conflict: the next pass starts from a fresh list.
            print(f"starting again after: {error}", file=sys.stderr, flush=True)
        time.sleep(0.5)


def client_of(kubeconfig: Path) -> ApiClient:
    """A client from a kubeconfig this tool wrote; the authority is laid beside it for the TLS library."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    return ApiClient(cluster["server"], kubeconfig.parent / "pki/ca.crt", config["users"][0]["user"]["token"])


if __name__ == "__main__":
    follow(client_of(Path(sys.argv[1])))
