"""Scrape targets from the pods of a cluster, for a Prometheus outside it.

Debian's Prometheus is built without Kubernetes discovery, so the targets go through a file; the labels are those that
the chart's monitors give.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

_LABEL = "qednano.dev/"
_SECONDS = 2.0


def targets(pods: Sequence[client.V1Pod]) -> list[dict[str, object]]:
    """The targets of running pods of runs and of the operator, as Prometheus reads them from a file."""
    found: list[dict[str, object]] = []
    for pod in pods:
        if pod.status.phase != "Running" or not pod.status.pod_ip:
            continue
        carried = pod.metadata.labels or {}
        place = {"namespace": pod.metadata.namespace, "pod": pod.metadata.name}
        if _LABEL + "run" in carried:
            port_name = "metrics"
            labels = {"job": "qednano-runs", "run": carried[_LABEL + "run"], "run_kind": carried[_LABEL + "kind"]}
            labels["role"] = carried[_LABEL + "role"]
        elif carried.get("app.kubernetes.io/name") == "qednano":
            port_name, labels = "http", {"job": "qednano-operator"}
        else:
            continue
        ports = [port for box in pod.spec.containers for port in box.ports or () if port.name == port_name]
        found += [
            {"targets": [f"{pod.status.pod_ip}:{port.container_port}"], "labels": {**labels, **place}} for port in ports
        ]
    return found


@contextlib.contextmanager
def following(kubeconfig: Path, file: Path) -> Iterator[None]:
    """Keep ``file`` true while the block runs; it stays as it is while the API server can't be reached."""
    config.load_kube_config(str(kubeconfig))
    api = client.CoreV1Api()
    stop = threading.Event()

    def follow() -> None:
        while True:
            with contextlib.suppress(ApiException, HTTPError, OSError):
                fresh = file.with_suffix(".new")
                fresh.write_text(json.dumps(targets(api.list_pod_for_all_namespaces().items)))
                os.replace(fresh, file)
            if stop.wait(_SECONDS):
                return

    thread = threading.Thread(target=follow, name="pods", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
