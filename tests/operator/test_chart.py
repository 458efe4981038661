"""The Helm chart: lints, renders valid manifests for old and new clusters, and refuses wrong values."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.kube.apiserver import ApiServer
from tests.kube.schemas import fits
from tests.operator.chart import CHART, install, only, operator_flags, render, run_helm
from tools.chart_readme import readme, rows

NAMESPACED = ("--set", "operator.namespaces={team-a,team-b}")


def test_the_chart_lints() -> None:
    done = run_helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


MONITORED = (
    "--set",
    "monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true,monitoring.rules.enabled=true,"
    "monitoring.dashboards.enabled=true",
)
REDIS = ("--set", "redis.enabled=true,redis.existingSecret=redis,redis.storage=2Gi")
EXTRAS = json.dumps(
    {
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/own", "readOnly": True}],
        "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"pool": "infra"},
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"team": "a"},
    }
)
FLAGS = [
    (),
    NAMESPACED,
    ("--set", "crds.enabled=false,rbac.aggregate=false"),
    ("--set", "webhook.enabled=true,runs.gpuHourPrice=2.50"),
    ("--set", "webhook.enabled=true,rbac.create=false", *NAMESPACED),
    (*MONITORED, *REDIS, *NAMESPACED),
    ("--set", "networkPolicies.enabled=false,tests.enabled=false,operator.replicas=1"),
    (*NAMESPACED, "--set", "kueue.enabled=true,jobset.enabled=true"),
    ("--set", "profiles.h100.scheduling.nodeSelector.gpu=h100,operator.podAnnotations.team=a"),
    ("--set", "priorityClasses[0].name=qed-trainer,priorityClasses[0].value=1000,operator.extraEnv[0].name=A"),
    ("--set", "images.pullSecrets={pull},operator.priorityClassName=high", "--set-json", f"operator={EXTRAS}"),
]
FOREIGN = ("CustomResourceDefinition", "PodMonitor", "ServiceMonitor", "PrometheusRule")


CURRENT = [f"1.{minor}" for minor in range(31, 38)]  # the newest whose schemas are published


@pytest.mark.parametrize("flags", FLAGS)
def test_every_object_fits_the_schemas_of_current_clusters(flags: tuple[str, ...]) -> None:
    kinds = set()
    for version in CURRENT:
        objects = render("--kube-version", f"{version}.0", *flags)
        kinds.add(tuple(sorted(item["kind"] for item in objects)))
        for item in objects:
            if item["kind"] not in FOREIGN:  # a CRD's schema is recursive; the API server checks it in other tests
                fits(item, version)
    assert len(kinds) == 1, "the same objects for each version"


def test_the_schemas_notice_a_wrong_field() -> None:
    (deployment,) = only(render(), "Deployment")
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        fits({**deployment, "spec": {**deployment["spec"], "replica": 2}}, CURRENT[-1])


def test_rules_and_dashboards_reach_the_cluster_as_they_were_generated() -> None:
    objects = render(*MONITORED)
    (rule,) = only(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files/rules.yaml").read_text())
    boards = {
        name: text
        for item in only(objects, "ConfigMap")
        if item["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in item["data"].items()
    }
    files = {path.name: path.read_text() for path in (CHART / "files/dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in boards.items()} == {n: json.loads(t) for n, t in files.items()}
    moved = render(*MONITORED, "--set", "monitoring.rules.runbooks=https://wiki.example.org/qed")
    (rule,) = only(moved, "PrometheusRule")
    links = [item["annotations"]["runbook_url"] for item in rule["spec"]["groups"][0]["rules"]]
    assert all(link.startswith("https://wiki.example.org/qed#qed") for link in links)


def test_monitors_look_at_the_served_namespaces_only() -> None:
    (everywhere,) = only(render(*MONITORED), "PodMonitor")
    (some,) = only(render(*MONITORED, *NAMESPACED), "PodMonitor")
    assert everywhere["spec"]["namespaceSelector"] == {"any": True}
    assert some["spec"]["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


def test_redis_has_a_password_and_answers_actors_and_trainers_only() -> None:
    done = run_helm("template", "qed", CHART, "--set", "redis.enabled=true")
    assert done.returncode != 0 and "redis.existingSecret" in done.stderr
    objects = render(*REDIS)
    (redis,) = only(objects, "StatefulSet")
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "password"}
    (policy,) = [item for item in only(objects, "NetworkPolicy") if item["metadata"]["name"].endswith("redis")]
    (source,) = policy["spec"]["ingress"][0]["from"]
    assert source["podSelector"]["matchExpressions"][0]["values"] == ["trainer", "actor"]


def test_the_helm_test_may_touch_runs_of_one_namespace_and_nothing_else() -> None:
    hooks = [item for item in render(*NAMESPACED) if "helm.sh/hook" in item["metadata"].get("annotations", {})]
    assert sorted(item["kind"] for item in hooks) == ["Pod", "Role", "RoleBinding", "ServiceAccount"]
    (role,) = only(tuple(hooks), "Role")
    assert role["metadata"]["namespace"] == "team-a"
    assert [rule["apiGroups"] for rule in role["rules"]] == [["qednano.dev"]]


def test_every_value_is_explained_and_the_readme_is_fresh() -> None:
    for path, _, meaning in rows((CHART / "values.yaml").read_text()):
        assert meaning, f"{path} has no comment"
    assert (CHART / "README.md").read_text() == readme()


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
    objects = render(*NAMESPACED, "--set", "rbac.aggregate=false,tests.enabled=false")
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
        "monitoring.podMonitor.interval=often",
        "priorityClasses[0].value=1",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    done = run_helm("template", "qed", CHART, "--set", wrong)
    key = wrong.partition("=")[0]
    assert done.returncode != 0
    assert all(part in done.stderr for part in itertools.islice(key.split("."), 1, None)), done.stderr


def _mappings(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every mapping of the values, the whole among them."""
    inner = [_mappings(value, (*path, name)) for name, value in values.items() if isinstance(value, dict)]
    return [path, *itertools.chain.from_iterable(inner)]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("operator.resources.limit.memory=1Gi", "limit"),
        ("operator.tolerations[0].keey=gpu", "keey"),
        ("operator.extraEnv[0].name=A,operator.extraEnv[0].valu=b", "valu"),
        ("operator.extraVolumeMounts[0].name=ca,operator.extraVolumeMounts[0].path=/ca", "mountPath"),
        ("operator.affinity.nodeAfinity.x=1", "nodeAfinity"),
        ("redis.resources.limit.memory=1Gi", "limit"),
        ("profiles.h100.scheduling.nodeSelektor.gpu=h100", "nodeSelektor"),
        ("profiles.h100.scheduling.tolerations[0].efect=NoSchedule", "efect"),
    ],
)
def test_a_typo_within_a_pods_fields_is_refused_too(wrong: str, word: str) -> None:
    done = run_helm("template", "qed", CHART, "--set", wrong)
    assert done.returncode != 0 and f"'{word}'" in done.stderr


FREE = {"nodeSelector", "podAnnotations", "annotations", "labels", "limits", "requests", "profiles"}
"""Mappings whose names are the user's own."""
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize("path", [path for path in _mappings(DEFAULTS) if not FREE & set(path)], ids=".".join)
def test_a_name_that_is_none_is_refused_wherever_it_stands(path: tuple[str, ...]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    wrong: dict[str, Any] = json.loads(json.dumps(DEFAULTS))
    jsonschema.validate(wrong, schema)
    place = wrong
    for name in path:
        place = place[name]
    place["enabledd"] = True
    with pytest.raises(jsonschema.ValidationError, match="enabledd"):
        jsonschema.validate(wrong, schema)


def test_a_large_priority_is_a_whole_number(tmp_path: Path) -> None:
    """Helm reads numbers of a file as floats, and writes those from a million on as 1e+06."""
    (tmp_path / "values.yaml").write_text("priorityClasses: [{name: high, value: 1000000}]")
    done = run_helm("template", "qed", CHART, "-f", tmp_path / "values.yaml", "-s", "templates/priorityclasses.yaml")
    assert "value: 1000000\n" in done.stdout


def test_extra_variables_volumes_and_pull_secrets_reach_the_operator() -> None:
    (pod,) = _pods(render("--set", "images.pullSecrets={pull}", "--set-json", f"operator={EXTRAS}"))
    (container,) = pod["containers"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"]
    assert {"name": "ca", "configMap": {"name": "ca"}} in pod["volumes"]
    assert {"name": "ca", "mountPath": "/etc/ssl/own", "readOnly": True} in container["volumeMounts"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}] and pod["nodeSelector"] == {"pool": "infra"}


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_a_drain_leaves_one_operator_where_there_are_two(replicas: int, budgets: int) -> None:
    found = only(render("--set", f"operator.replicas={replicas}"), "PodDisruptionBudget")
    assert [item["spec"]["minAvailable"] for item in found] == [1] * budgets


def test_after_an_install_the_next_commands_are_said() -> None:
    plain = _notes()
    assert "kubectl apply -f examples/tiny/" in plain and "helm test qed -n default" in plain
    assert "ReadWriteMany" in plain and "podMonitor" in plain and "crds.enabled" not in plain
    told = _notes("--set", "monitoring.podMonitor.enabled=true,operator.namespaces={a,b},crds.enabled=false")
    assert "podMonitor" not in told and "the namespaces a, b" in told and "crds.enabled is false" in told


def _notes(*flags: str) -> str:
    done = run_helm("install", "qed", CHART, "--dry-run=client", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]
