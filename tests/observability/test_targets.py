"""Pods of a cluster become scrape targets with the labels that dashboards and alerts use."""

from __future__ import annotations

from kubernetes import client

from tools.observability.pods import targets


def pod(name: str, labels: dict[str, str], ports: dict[str, int], phase: str = "Running") -> client.V1Pod:
    """A pod with one container."""
    listed = [client.V1ContainerPort(name=key, container_port=value) for key, value in ports.items()]
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, namespace="team-a", labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="main", ports=listed)]),
        status=client.V1PodStatus(phase=phase, pod_ip="10.0.0.7"),
    )


RUN = {"qednano.dev/run": "rl", "qednano.dev/kind": "RLRun", "qednano.dev/role": "trainer"}


def test_a_pod_of_a_run_carries_its_run_and_role() -> None:
    found = targets([pod("rl-trainer", RUN, {"metrics": 9090, "http": 8000})])
    assert found == [
        {
            "targets": ["10.0.0.7:9090"],
            "labels": {
                "job": "qednano-runs",
                "run": "rl",
                "run_kind": "RLRun",
                "role": "trainer",
                "namespace": "team-a",
                "pod": "rl-trainer",
            },
        }
    ]


def test_the_operator_is_a_target_and_others_are_not() -> None:
    operator = pod("qednano-1", {"app.kubernetes.io/name": "qednano"}, {"http": 8080})
    stranger = pod("web", {"app.kubernetes.io/name": "nginx"}, {"http": 80})
    ended = pod("old", RUN, {"metrics": 9090}, phase="Succeeded")
    assert [found["targets"] for found in targets([operator, stranger, ended])] == [["10.0.0.7:8080"]]
