"""Pods are restricted, no text of a spec reaches a shell, and no field names another namespace."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from qednano_operator.manifests import METRICS_PORT, PORT

from qednano.api import KINDS
from tests.operator import chart
from tests.operator.simulation import Simulation
from tools.cluster.paths import REPOSITORY

EXAMPLES = [
    document
    for folder in ("tiny", "paper")
    for path in sorted((REPOSITORY / "examples" / folder).glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document and document.get("kind") in KINDS
]
HOSTILE = "$(touch /tmp/x); `id` ${POD_NAME} 'a' \"b\" | sh\n&"


def _done(document: dict[str, Any]) -> dict[str, Any]:
    status = {"phase": "Succeeded", "artifact": {"uri": "/qed/ns/made"}, "progress": {"exports": [1]}}
    return {"kind": document["kind"], "metadata": document["metadata"], "spec": document["spec"], "status": status}


def made(kind: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object of a run's first attempt; the examples that it refers to have succeeded."""
    simulation = Simulation.of(kind)
    simulation.run["spec"] = spec
    simulation.others = {(item["kind"], item["metadata"]["name"]): _done(item) for item in EXAMPLES}
    simulation.operator()
    found = list(simulation.decide().apply)
    assert found, simulation.status
    return found


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(object's name, pod spec) of everything that makes pods."""
    for item in objects:
        spec = item["spec"] if item["kind"] == "Pod" else item.get("spec", {}).get("template", {}).get("spec")
        if spec and "containers" in spec:
            yield item["metadata"]["name"], spec


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: dict[str, Any]) -> list[str]:
    """What the restricted level of the Pod Security Standards (Kubernetes documentation, v1.25 and later) forbids."""
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    whole = pod.get("securityContext") or {}
    for volume in pod.get("volumes") or []:
        found += [f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    if whole.get("sysctls"):
        found.append("sysctls are set")
    for container in [*pod["containers"], *(pod.get("initContainers") or []), *(pod.get("ephemeralContainers") or [])]:
        own, name = container.get("securityContext") or {}, container["name"]
        merged = {**whole, **own}
        wrong = {
            "privileged": bool(own.get("privileged")),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": merged.get("runAsNonRoot") is not True,
            "runAsUser": merged.get("runAsUser") == 0,
            "seccompProfile": (merged.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "capabilities.drop": "ALL" not in (own.get("capabilities") or {}).get("drop", []),
            "capabilities.add": bool({*(own.get("capabilities") or {}).get("add", [])} - {"NET_BIND_SERVICE"}),
            "procMount": own.get("procMount", "Default") != "Default",
            "seLinuxOptions": "seLinuxOptions" in merged,
            "appArmorProfile": (merged.get("appArmorProfile") or {}).get("type") == "Unconfined",
            "hostPort": any(port.get("hostPort") for port in container.get("ports") or []),
        }
        found += [f"{name}: {field}" for field, bad in wrong.items() if bad]
    return found


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_every_pod_of_the_examples_is_restricted(document: dict[str, Any]) -> None:
    found = dict(pods(made(document["kind"], document["spec"])))
    assert found
    for name, pod in found.items():
        assert violations(pod) == [], name


def test_every_pod_of_the_chart_is_restricted() -> None:
    objects = chart.render("--set", "redis.enabled=true,redis.existingSecret=redis")
    found = dict(pods(list(objects)))
    assert found.keys() == {"qed-qednano", "qed-qednano-redis", "qed-qednano-test"}
    for name, pod in found.items():
        assert violations(pod) == [], name


def test_what_is_not_restricted_is_noticed() -> None:
    (pod,) = (spec for _, spec in pods(made("SFTRun", Simulation.of("SFTRun").run["spec"])))
    for wrong in (
        {"hostNetwork": True},
        {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {"securityContext": {**pod["securityContext"], "runAsNonRoot": False}},
        {"containers": [{**pod["containers"][0], "securityContext": {}}]},
    ):
        assert violations({**pod, **wrong}), wrong


def _texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all texts in a spec."""
    if isinstance(value, str):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from _texts(child, (*path, key))


def _with(spec: dict[str, Any], path: tuple[str | int, ...], text: str) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    inner: Any = changed
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = text
    return changed


def _valid(kind: str, spec: dict[str, Any]) -> bool:
    try:
        KINDS[kind].spec_type().model_validate(spec)
    except ValidationError:
        return False
    return True


def hostile(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with a shell's favourite characters in every text that takes them, with or without white space."""
    full = KINDS[kind].spec_type().model_validate(spec).model_dump(mode="json", by_alias=True, exclude_none=True)
    for path in list(_texts(full)):
        for text in (HOSTILE, re.sub(r"\s+", "", HOSTILE)):
            changed = _with(full, path, text)
            if _valid(kind, changed):
                full = changed
                break
    full["scheduling"].pop("queueName", None)  # such a queue is not there, and the run would have no pods to look at
    return full


def commands(objects: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What the containers of each object run, and their probes."""
    parts = ("command", "args", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
    return {name: [[c.get(part) for part in parts] for c in pod["containers"]] for name, pod in pods(objects)}


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_no_text_of_a_spec_reaches_a_command(document: dict[str, Any]) -> None:
    kind, spec = document["kind"], document["spec"]
    evil = hostile(kind, spec)
    assert any("touch" in str(value) for value in evil.values()), "no text of this spec takes such characters"
    assert commands(made(kind, evil)) == commands(made(kind, spec))


def test_the_one_shell_sees_the_name_of_its_pod_and_nothing_else() -> None:
    shells = []
    for document in EXAMPLES:
        for _, pod in pods(made(document["kind"], document["spec"])):
            (container,) = pod["containers"]
            if "sh" in container["command"][0]:
                shells.append(container["command"])
            else:
                assert container["command"][0] == "python"
    assert shells
    for shell in shells:
        assert shell == ["/bin/sh", "-c", "export QED_INDEX=${POD_NAME##*-}; exec python -m qednano_jobs.serve"]


def test_no_code_of_ours_starts_a_shell() -> None:
    found = []
    for folder in ("qednano", "jobs", "operator"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            found += [f"{path.relative_to(REPOSITORY)}:{line}" for line in _shells(path)]
    assert found == []


def _shells(path: Path) -> Iterator[int]:
    names = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            owner = node.func.value.id if called and isinstance(node.func.value, ast.Name) else ""  # type: ignore[union-attr]
            if called in names and owner in ("os", "subprocess", "asyncio"):
                yield node.lineno
            if any(word.arg == "shell" for word in node.keywords):
                yield node.lineno


def _fields(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (schema.get("properties") or {})
        for child in schema.values():
            yield from _fields(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from _fields(child)


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_a_spec_names_a_namespace(kind: str) -> None:
    fields = set(_fields(KINDS[kind].spec_type().model_json_schema(by_alias=True)))
    assert "claimName" in fields and not {name for name in fields if "namespace" in name.lower()}


@pytest.mark.parametrize("name", ["other/run", "../run", "run.other", "other:run", "Other", "run "])
def test_a_reference_is_a_plain_name(name: str) -> None:
    spec = Simulation.of("EvalRun").run["spec"]
    assert not _valid("EvalRun", {**spec, "model": {"sftRun": {"name": name}}})


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_a_pod_mounts_its_own_configuration_and_the_claim_of_its_namespace(document: dict[str, Any]) -> None:
    for item in made(document["kind"], document["spec"]):
        assert item["metadata"]["namespace"] == "ns"
        for _, pod in pods([item]):
            mounted = [volume for volume in pod["volumes"] if "emptyDir" not in volume]
            claim = document["spec"].get("storage", {}).get("claimName", "qednano")
            config = f"{item['metadata']['labels']['qednano.dev/run']}-config"
            assert mounted == [
                {"name": "config", "configMap": {"name": config}},
                {"name": "storage", "persistentVolumeClaim": {"claimName": claim}},
            ]
            for variable in pod["containers"][0]["env"]:
                source = variable.get("valueFrom", {})
                assert source.keys() <= {"fieldRef", "secretKeyRef"}
                assert source.get("secretKeyRef", {}).keys() <= {"name", "key"}


def _reaches(policy: dict[str, Any], sender: tuple[str, dict[str, str]], receiver: dict[str, str], port: int) -> bool:
    """Whether a pod (namespace, labels) reaches a port of a pod of namespace ns, by Kubernetes' rules of policies."""

    def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        assert selector.keys() == {"matchLabels"}, "others are not evaluated here"
        return bool(selector["matchLabels"].items() <= labels.items())

    spec = policy["spec"]
    assert selected(spec["podSelector"], receiver) and "Ingress" in spec["policyTypes"], "else nothing is restricted"
    for rule in spec["ingress"]:
        peers, ports = rule.get("from"), rule.get("ports")
        assert all(peer.keys() == {"podSelector"} for peer in peers or []), "pods of its own namespace"
        from_there = peers is None or (
            sender[0] == "ns" and any(selected(peer["podSelector"], sender[1]) for peer in peers)
        )
        if from_there and (ports is None or any(item["port"] == port for item in ports)):
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_servers_weights_and_streams_are_reached_by_the_runs_own_pods_only(kind: str) -> None:
    objects = made(kind, Simulation.of(kind, **({"stream": {"redis": {}}} if kind == "RLRun" else {})).run["spec"])
    (policy,) = [item for item in objects if item["kind"] == "NetworkPolicy"]
    templates = [
        item["spec"]["template"]["metadata"]["labels"] for item in objects if "template" in item.get("spec", {})
    ]
    assert len(templates) >= {"RLRun": 4, "EvalRun": 2}.get(kind, 1)
    for receiver in templates:
        for mine in templates:
            assert _reaches(policy, ("ns", mine), receiver, PORT)
            others = [
                ("ns", {**mine, "qednano.dev/run": "other"}),
                ("ns", {**mine, "qednano.dev/kind": "Other"}),
                ("ns", {"app": "somebody's"}),
                ("tenant-b", mine),  # who may give their pods any label
            ]
            for stranger in others:
                assert not _reaches(policy, stranger, receiver, PORT)
                assert _reaches(policy, stranger, receiver, METRICS_PORT), "Prometheus and the operator"
