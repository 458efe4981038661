"""The control plane that other tests rest on is a real one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kube.apiserver import ApiServer, KubectlFailed
from tools.cluster.steps import wait_until

pytestmark = pytest.mark.apiserver


def crd(rule: str, max_items: int | None = 8) -> dict[str, Any]:
    """A CRD of group boats.example with one CEL rule on its spec."""
    names: dict[str, Any] = {"type": "array", "items": {"type": "string", "maxLength": 20}}
    if max_items is not None:
        names["maxItems"] = max_items
    spec = {
        "type": "object",
        "properties": {"size": {"type": "integer"}, "names": names},
        "x-kubernetes-validations": [{"rule": rule, "message": "size stays as it was launched"}],
    }
    schema = {"type": "object", "properties": {"spec": spec}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.boats.example"},
        "spec": {
            "group": "boats.example",
            "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


BOAT = '{"apiVersion": "boats.example/v1", "kind": "Boat", "metadata": {"name": "one"}, "spec": {"size": %d}}'


def test_objects_are_stored_per_namespace(apiserver: ApiServer, namespace: str) -> None:
    apiserver.kubectl("-n", namespace, "create", "configmap", "answers", "--from-literal=a=42")
    assert apiserver.get("-n", namespace, "configmap", "answers")["data"] == {"a": "42"}
    assert not apiserver.exists("-n", apiserver.new_namespace(), "configmap", "answers")


def test_cel_rules_of_custom_resources_are_enforced(apiserver: ApiServer, namespace: str) -> None:
    apiserver.install_crds(crd("self.size == oldSelf.size"))
    apiserver.kubectl("-n", namespace, "apply", "-f", "-", stdin=BOAT % 3)
    with pytest.raises(KubectlFailed, match="size stays as it was launched"):
        apiserver.kubectl("-n", namespace, "apply", "-f", "-", stdin=BOAT % 4)
    assert apiserver.get("-n", namespace, "boat", "one")["spec"]["size"] == 3


def test_children_go_with_their_owner(apiserver_with_controllers: ApiServer, namespace_with_controllers: str) -> None:
    server, namespace = apiserver_with_controllers, namespace_with_controllers
    server.install_crds(crd("self.size == oldSelf.size"))
    server.kubectl("-n", namespace, "apply", "-f", "-", stdin=BOAT % 3)
    uid = server.get("-n", namespace, "boat", "one")["metadata"]["uid"]
    server.client.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/configmaps",
        {
            "metadata": {
                "name": "child",
                "ownerReferences": [{"apiVersion": "boats.example/v1", "kind": "Boat", "name": "one", "uid": uid}],
            }
        },
    )
    server.kubectl("-n", namespace, "delete", "boat", "one")
    wait_until(
        lambda: not server.exists("-n", namespace, "configmap", "child"),
        what="collection of the owner's child",
        seconds=60,
    )


def test_jobs_make_pods(apiserver_with_controllers: ApiServer, namespace_with_controllers: str) -> None:
    server, namespace = apiserver_with_controllers, namespace_with_controllers
    server.kubectl("-n", namespace, "create", "job", "one", "--image=none")
    wait_until(lambda: server.exists("-n", namespace, "pod", "-l", "job-name=one"), what="the Job's pod", seconds=30)
