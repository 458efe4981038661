"""A real HorizontalPodAutoscaler, by kube-controller-manager, drives the rollout servers of a run."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.kube.apiserver import ApiServer
from tests.operator.harness import Cluster, eventually, unique
from tools.cluster import aggregation

pytestmark = pytest.mark.apiserver

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
METRIC = "requests-waiting"
_ROOT = f"/apis/{GROUP}/{VERSION}"


class Metrics:
    """The external metrics API as an adapter would serve it, behind the aggregator: one metric with one value."""

    def __init__(self, server: ApiServer) -> None:
        self.value = 0
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(metrics.answer(self.path.partition("?")[0])).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        pki = server.plane.certificates
        context.load_cert_chain(pki / f"{aggregation.SERVICE}.crt", pki / f"{aggregation.SERVICE}.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens, on the loopback address."""
        return int(self.server.server_address[1])

    def answer(self, path: str) -> dict[str, Any]:
        """Discovery, or the metric's value."""
        if not path.endswith(METRIC):
            resource = {"name": METRIC, "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
            listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
            return {**listed, "resources": [{**resource, "singularName": ""}]}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        item = {"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": str(self.value)}
        kind = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
        return {**kind, "items": [item]}


@pytest.fixture
def metrics(qed_server: ApiServer) -> Iterator[Metrics]:
    """The metrics API, served to the cluster."""
    found, client = Metrics(qed_server), qed_server.client
    path = "/apis/apiregistration.k8s.io/v1/apiservices"
    parent = client.request("GET", f"{path}/{aggregation.CRD_VERSION}.{aggregation.CRD_GROUP}")["spec"]
    spec = {
        "group": GROUP,
        "version": VERSION,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "caBundle": parent["caBundle"],
        "service": {**parent["service"], "port": found.port},
    }
    name = f"{VERSION}.{GROUP}"
    client.request("POST", path, {"metadata": {"name": name}, "spec": spec})
    eventually(lambda: aggregation.available(client, VERSION, GROUP), what="the metrics API is there")
    yield found
    client.request("DELETE", f"{path}/{name}")
    found.server.shutdown()


def autoscaler(run: str, version: str) -> dict[str, Any]:
    """One server for every ten requests that wait, at least one and at most three; fewer at once when they are gone."""
    metric = {"metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": "10"}}
    return {
        "apiVersion": version,
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": run},
        "spec": {
            "scaleTargetRef": {"apiVersion": "qednano.dev/v1alpha1", "kind": "RLRun", "name": run},
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [{"type": "External", "external": metric}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }


def test_an_autoscaler_adds_and_takes_rollout_servers_of_a_live_run(cluster: Cluster, metrics: Metrics) -> None:
    name, client = unique("rl"), cluster.server.client
    cluster.create("RLRun", name)
    for role in ("rollout", "trainer", "actor"):
        cluster.start(*cluster.wait_pods(name, role))
    cluster.phase("RLRun", name, "Running")
    scale = client.request("GET", cluster.path("RLRun", name, "scale"))
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (1, 1)
    # What the selector finds is what an autoscaler by CPU or by a metric of pods would measure: the servers alone.
    selected = cluster.server.get("-n", cluster.namespace, "pods", "-l", scale["status"]["selector"])["items"]
    assert [pod["metadata"]["name"] for pod in selected] == [f"{name}-rollout-0"]

    metrics.value = 25
    version = cluster.server.autoscaling
    path = f"/apis/{version}/namespaces/{cluster.namespace}/horizontalpodautoscalers"
    client.request("POST", path, autoscaler(name, version))
    try:
        cluster.start(*eventually(lambda: _pods(cluster, name, 3), what="three servers", seconds=90))
        eventually(lambda: cluster.status("RLRun", name)["rolloutReplicas"] == 3, what="the scale is in the status")
        conditions = client.request("GET", f"{path}/{name}")["status"].get("conditions") or []
        assert all(item["status"] == "True" for item in conditions if item["type"] in ("AbleToScale", "ScalingActive"))

        metrics.value = 5
        eventually(lambda: cluster.run("RLRun", name)["spec"]["rollout"]["replicas"] == 1, what="one is wanted")
        eventually(lambda: _pods(cluster, name, 1), what="one server")
        status = cluster.status("RLRun", name)
        assert status["phase"] == "Running" and status["attempt"] == 1
        accepted = next(item for item in status["conditions"] if item["type"] == "Accepted")
        assert accepted["reason"] == "Valid", "the change is taken, not ignored"
    finally:
        client.request("DELETE", f"{path}/{name}")


def _pods(cluster: Cluster, run: str, count: int) -> list[dict[str, Any]]:
    found = cluster.pods(run, "rollout")
    return found if len(found) == count else []
