"""A Redis of the run's own on a cluster."""

from __future__ import annotations

from tests.operator.test_manifests import objects, pod_of


def test_a_redis_of_the_runs_own_is_a_pod_like_the_others_and_sees_no_secret() -> None:
    key = {"name": "grader", "key": "api-key"}
    endpoint = {"endpoint": {"url": "https://models.example", "model": "m", "apiKey": key}}
    found = objects("RLRun", stream={"redis": {}}, grader={"rubric": {"model": endpoint}})
    pod = pod_of(found, "stream")
    (container,) = pod["containers"]
    assert container["command"][-1] == "export QED_INDEX=${POD_NAME##*-}; exec python -m qednano_jobs.stream"
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    assert {"name": "storage", "mountPath": "/qed"} in container["volumeMounts"], "its data is on the run's volume"
    assert not any("valueFrom" in item and "secretKeyRef" in item["valueFrom"] for item in container["env"])
    actor = pod_of(found, "actor")["containers"][0]["env"]
    assert any("secretKeyRef" in item.get("valueFrom", {}) for item in actor)
    (policy,) = [obj for obj in found if obj["kind"] == "NetworkPolicy"]
    mine = policy["spec"]["podSelector"]
    assert {"from": [{"podSelector": mine}]} in policy["spec"]["ingress"], "and the run's pods alone reach it"
    (made,) = [obj for obj in found if obj["metadata"]["labels"].get("qednano.dev/role") == "stream"]
    assert mine["matchLabels"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
