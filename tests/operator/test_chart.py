"""The Helm chart: lints, renders valid manifests for old and new clusters, and refuses wrong values."""

from __future__ import annotations

import itertools
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.kube.apiserver import ApiServer
from tests.operator.chart import CHART, install, only, operator_flags, render, run_helm

NAMESPACED = ("--set", "operator.namespaces={team-a,team-b}")


def test_the_chart_lints() -> None:
    done = run_helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


FLAGS = [(), NAMESPACED, ("--set", "crds.enabled=false,rbac.aggregate=false")]


@pytest.mark.parametrize("flags", FLAGS)
def test_every_object_fits_the_newest_schemas(flags: tuple[str, ...]) -> None:
    for item in render("--kube-version", "1.37.0", *flags):
        if item["kind"] != "CustomResourceDefinition":  # its own schema is recursive, and the API server checks it
            kubernetes_validate.validate(item, "1.37", strict=True)


@pytest.mark.apiserver
def test_every_object_is_taken_by_an_old_api_server(qed_server: ApiServer) -> None:
    objects = render("--kube-version", "1.20.2", "--set", "crds.enabled=false")
    moved = [
        {**item, "metadata": {**item["metadata"], "namespace": "default"}} if "namespace" in item["metadata"] else item
        for item in objects
    ]
    said = install(qed_server, moved, "--dry-run=server").splitlines()
    assert len(said) == len(objects) and all("server dry run" in line for line in said)


def test_crds_are_the_generated_ones_and_outlive_the_release() -> None:
    crds = {item["metadata"]["name"]: item for item in only(render(), "CustomResourceDefinition")}
    files = [yaml.safe_load(path.read_text()) for path in (CHART / "files/crds").glob("*.yaml")]
    assert len(files) == 4
    for item in files:
        assert crds[item["metadata"]["name"]]["spec"] == item["spec"]
        assert crds[item["metadata"]["name"]]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not only(render("--set", "crds.enabled=false"), "CustomResourceDefinition")


def test_served_namespaces_get_roles_and_nothing_is_cluster_wide() -> None:
    objects = render(*NAMESPACED, "--set", "rbac.aggregate=false")
    assert not only(objects, "ClusterRole", "ClusterRoleBinding")
    roles = {(role["metadata"]["namespace"], role["metadata"]["name"]) for role in only(objects, "Role")}
    assert roles == {("qed-system", "qed-qednano-lease"), ("team-a", "qed-qednano"), ("team-b", "qed-qednano")}
    assert "--namespaces=team-a,team-b" in operator_flags(objects)


def test_no_role_reaches_secrets_nodes_or_escalates() -> None:
    rules = [rule for role in only(render(), "ClusterRole", "Role") for rule in role["rules"]]
    for rule in rules:
        assert "*" not in [*rule["resources"], *rule["verbs"], *rule["apiGroups"]]
        assert not {"secrets", "nodes", "roles", "clusterroles", "serviceaccounts"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def _pods(objects: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    return [item["spec"]["template"]["spec"] for item in only(objects, "Deployment")]


def test_the_operators_pod_is_locked_down() -> None:
    (pod,) = _pods(render())
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"] and container["readinessProbe"] and container["resources"]["limits"]["memory"]


def test_images_can_come_from_a_registry_of_ones_own_by_tag_or_digest() -> None:
    flags = ("--set", "images.registry=r.example.org/team/,images.tag=v2,images.server=srv@sha256:abc")
    args = operator_flags(render(*flags))
    assert "--trainer-image=r.example.org/team/qednano-trainer:v2" in args
    assert "--server-image=r.example.org/team/srv@sha256:abc" in args


@pytest.mark.parametrize(
    "wrong",
    [
        "images.pullPolicy=Sometimes",
        "operator.replicas=many",
        "operator.replica=2",
        "images.registry=r.example.org",
        "operator.namespaces={Team}",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    done = run_helm("template", "qed", CHART, "--set", wrong)
    key = wrong.partition("=")[0]
    assert done.returncode != 0
    assert all(part in done.stderr for part in itertools.islice(key.split("."), 1, None)), done.stderr
