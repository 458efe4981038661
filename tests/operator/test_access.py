"""The chart's rights are exactly those that the operator uses, read from the API server's own audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from qednano.plan.evaluations import OF_LABEL
from tests.kube import apiserver
from tests.kube.apiserver import ApiServer
from tests.operator import chart
from tests.operator.fixtures import CRDS
from tests.operator.harness import NODE, Cluster, OperatorProcess, eventually, succeed
from tools.cluster.api_client import MERGE

pytestmark = pytest.mark.apiserver

ACCOUNT = f"system:serviceaccount:{chart.SYSTEM}:qed-qednano"
RUNS = ("proofdatasets", "sftruns", "rlruns", "evalruns")
Right = tuple[str, str, str]  # API group, resource, verb

IMPLIED: set[Right] = {
    # The admission plugin OwnerReferencesPermissionEnforcement asks for these, where a cluster has it on.
    *(("qednano.dev", f"{plural}/finalizers", "update") for plural in RUNS),
}


def granted(*flags: str, namespace: str = "") -> set[Right]:
    """What the chart lets the operator do, in one namespace where given, but for the Lease's own Role."""
    found: set[Right] = set()
    for role in chart.only(chart.render(*flags), "ClusterRole", "Role"):
        meta = role["metadata"]
        if meta["name"] != "qed-qednano" or meta.get("namespace", "") != namespace:
            continue
        for rule in role["rules"]:
            assert rule.keys() == {"apiGroups", "resources", "verbs"}
            found |= {(g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    return found


def calls(server: ApiServer) -> list[tuple[Right, dict[str, Any]]]:
    """What the operator's account asked for, with the whole event; leases are in another Role."""
    found = []
    for line in server.plane.audit_log.read_text().splitlines():
        event = json.loads(line)
        what = event.get("objectRef") or {}
        if event["user"]["username"] == ACCOUNT and what.get("resource", "leases") != "leases":
            part = f"/{what['subresource']}" if what.get("subresource") else ""
            found.append(((what.get("apiGroup", ""), what["resource"] + part, event["verb"]), event))
    return found


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of its own, which writes down what the operator asks for."""
    server = apiserver.start(tmp_path_factory.mktemp("audited"), controllers=True, audited=True)
    try:
        server.install_crds(*(yaml.safe_load(path.read_text()) for path in CRDS))
        server.client.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        server.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": chart.SYSTEM}})
        yield server
    finally:
        server.plane.stop()


@pytest.fixture(scope="module")
def serving(audited: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator of all namespaces with the chart's ClusterRole and nothing else."""
    objects = chart.render("--set", "rbac.aggregate=false")
    chart.install(
        audited, chart.only(objects, "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    )
    folder = tmp_path_factory.mktemp("operator")
    kubeconfig = chart.kubeconfig_of(audited, "qed-qednano", folder / "kubeconfig")
    process = OperatorProcess(kubeconfig, folder / "operator.log", chart.operator_flags(objects)).start()
    yield process
    process.end()


def _own(kind: str, name: str, **body: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, **body}


def _foreign(cluster: Cluster) -> None:
    """Objects of somebody else, with names that runs want."""
    core, root = f"/api/v1/namespaces/{cluster.namespace}", "/apis/networking.k8s.io/v1"
    post = cluster.server.client.request
    post("POST", f"{core}/configmaps", _own("ConfigMap", "sft-a-config"))
    post("POST", f"{core}/services", _own("Service", "sft-b", spec={"ports": [{"port": 80}]}))
    policy = _own("NetworkPolicy", "sft-c", spec={"podSelector": {}})
    post("POST", f"{root}/namespaces/{cluster.namespace}/networkpolicies", policy)
    for name in ("sft-a", "sft-b", "sft-c"):
        cluster.create("SFTRun", name)
    for name in ("sft-a", "sft-b", "sft-c"):
        eventually(
            lambda name=name: "belongs to nobody's run" in cluster.status("SFTRun", name).get("message", ""),
            what=f"{name} says whose the name is",
        )


def _lives(cluster: Cluster) -> None:
    """Every kind from its creation to its end, with a server scaled, a suspension, an evaluation and a deletion."""
    client, ns = cluster.server.client, cluster.namespace
    cluster.create("ProofDataset", "data")
    cluster.create("EvalRun", "template", suspend=True)
    cluster.create("EvalRun", "eval")
    evaluations = [{"name": "math", "evalRun": "template", "everySteps": 5}]
    for name in ("sft", "sft-d"):
        cluster.create("SFTRun", name, evaluations=evaluations)
    cluster.create("EvalRun", "sft-d-math-5")  # the name that the evaluation of step 5 would have
    for name in ("sft", "sft-d"):
        cluster.start(*cluster.wait_pods(name, "trainer"))
        cluster.phase("SFTRun", name, "Running")
        cluster.set_status("SFTRun", name, {"progress": {"step": 5, "total": 10, "exports": [5]}})
    eventually(
        lambda: client.request("GET", f"{cluster.path('EvalRun')}?labelSelector={OF_LABEL}%3Dsft")["items"],
        what="the checkpoint is evaluated",
    )
    cluster.create("RLRun", "rl")
    cluster.start(*cluster.wait_pods("rl", "rollout"), *cluster.wait_pods("rl", "trainer"))
    cluster.start(*cluster.wait_pods("rl", "actor"))
    cluster.phase("RLRun", "rl", "Running")
    cluster.patch("RLRun", "rl", {"rollout": {"replicas": 2}})
    cluster.wait_pods("rl", "rollout", 2)
    outdated = {"metadata": {"annotations": {"qednano.dev/spec-hash": "of an older operator"}}}
    client.request("PATCH", f"/api/v1/namespaces/{ns}/services/rl", outdated, MERGE)
    # Its pods have no controller that would tell of their end, so they are deleted one by one.
    cluster.patch("RLRun", "rl", {"suspend": True})
    cluster.reaped("rl", lambda: cluster.status("RLRun", "rl")["phase"] == "Suspended", what="suspended")
    cluster.patch("RLRun", "rl", {"cancel": True})
    cluster.start(*cluster.wait_pods("eval", "server"))
    ends = (("ProofDataset", "data", "dataset"), ("SFTRun", "sft", "trainer"), ("EvalRun", "eval", "evaluate"))
    for _, name, role in ends:
        (pod,) = cluster.wait_pods(name, role)
        cluster.start(pod)
        cluster.end(pod, 0, succeed())
    for kind, name, _ in (*ends, ("RLRun", "rl", "")):
        cluster.reaped(
            name,
            lambda kind=kind, name=name: cluster.status(kind, name)["phase"] in ("Succeeded", "Failed"),
            what=f"{name} has ended",
        )
    for kind, name, _ in (*ends, ("RLRun", "rl", "")):
        cluster.patch(kind, name, {"artifacts": {"retention": "Delete"}})
        eventually(
            lambda kind=kind, name=name: cluster.run(kind, name)["metadata"].get("finalizers"), what="the finalizer"
        )
        cluster.patch(kind, name, {"artifacts": {"retention": "Keep"}, "ttlSecondsAfterFinished": 0})
        only = f"{cluster.path(kind)}?fieldSelector=metadata.name%3D{name}"
        eventually(lambda only=only: not client.request("GET", only)["items"], what=f"{name}'s time to live is over")


@pytest.mark.timeout(180)
def test_the_chart_grants_what_the_operator_uses_and_nothing_else(audited: ApiServer, serving: OperatorProcess) -> None:
    cluster = Cluster(audited, audited.new_namespace())
    _foreign(cluster)
    _lives(cluster)
    assert serving.stop() == 0
    seen = calls(audited)
    refused = [event for _, event in seen if event["annotations"].get("authorization.k8s.io/decision") == "forbid"]
    assert not refused
    used = {right for right, _ in seen}
    assert sorted(granted() - used) == sorted(IMPLIED)


def test_roles_of_namespaces_grant_what_the_cluster_role_does() -> None:
    flags = ("--set", "operator.namespaces={team-a,team-b}")
    assert granted(*flags, namespace="team-a") == granted(*flags, namespace="team-b") == granted()
    assert not granted(*flags)


@pytest.mark.parametrize("verb", ["get", "list", "watch", "create"])
@pytest.mark.parametrize("resource", ["secrets", "nodes", "roles", "pods/exec", "pods/log", "serviceaccounts/token"])
def test_the_operator_is_refused_secrets_and_more(
    audited: ApiServer, serving: OperatorProcess, resource: str, verb: str
) -> None:
    what, _, part = resource.partition("/")
    attributes = {"namespace": chart.SYSTEM, "verb": verb, "resource": what, "subresource": part}
    groups = {"roles": "rbac.authorization.k8s.io"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "resourceAttributes": {**attributes, "group": groups.get(what, "")}},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert audited.client.request("POST", path, review)["status"]["allowed"] is False
