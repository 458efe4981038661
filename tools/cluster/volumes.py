"""The shared volume `qednano`: a folder of this host that every pod of a namespace may mount read-write."""

from __future__ import annotations

import os
from pathlib import Path

from tools.cluster.api_client import MERGE, ApiClient, Refused
from tools.cluster.errors import ClusterError
from tools.cluster.steps import wait_until

CLAIM = "qednano"
_POD_USER = 65532
_SIZE = "20Gi"


def claim(client: ApiClient, folder: Path, namespace: str) -> Path:
    """Makes the PersistentVolume and its claim in a namespace; returns the folder behind them.

    One folder serves every namespace, as one file server would: runs keep apart by namespace inside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, _POD_USER, _POD_USER)
    folder.chmod(0o775)
    name = f"{CLAIM}-{namespace}"
    client.apply(
        f"/api/v1/persistentvolumes/{name}",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": _SIZE},
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder), "type": "Directory"},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "name": CLAIM,
                    "namespace": namespace,
                },
            },
        },
    )
    # A volume whose claim went with its namespace waits for that very claim until it is told to forget it.
    if client.request("GET", f"/api/v1/persistentvolumes/{name}").get("status", {}).get("phase") == "Released":
        forgotten = {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
        client.request("PATCH", f"/api/v1/persistentvolumes/{name}", forgotten, MERGE)
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{CLAIM}"
    try:
        client.apply(
            path,
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": CLAIM, "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadWriteMany"],
                    "storageClassName": "",
                    "volumeName": name,
                    "resources": {"requests": {"storage": _SIZE}},
                },
            },
        )
    except Refused as refused:
        if refused.status == 404:
            raise ClusterError(f"there is no namespace {namespace!r} to make a volume in: create it first") from refused
        raise
    wait_until(
        lambda: client.request("GET", path).get("status", {}).get("phase") == "Bound",
        what=f"the claim {CLAIM} in namespace {namespace}",
        seconds=30,
    )
    return folder
