"""From v1alpha1 to a next version: both are served, what is stored moves, and the pages' command ends the old one."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qednano.api import GROUP, KINDS, VERSION
from tests.docs.conftest import shell
from tests.docs.pages import commands
from tests.kube import apiserver
from tests.kube.apiserver import ApiServer
from tests.operator.fixtures import CRDS
from tests.operator.harness import Cluster
from tools.cluster.api_client import Refused

pytestmark = pytest.mark.apiserver
NEXT = "v1alpha2"
Object = dict[str, Any]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ApiServer]:
    """A control plane of the test's own: no other may meet kinds that are stored otherwise."""
    server = apiserver.start(tmp_path / "plane", controllers=False)
    yield server
    server.plane.stop()


def with_next(crd: Object, *, old: bool) -> Object:
    """The kind as a next release has it: the same schema under both versions, or, later, under the new one alone."""
    found = copy.deepcopy(crd)
    (version,) = found["spec"]["versions"]
    following = {**copy.deepcopy(version), "name": NEXT}
    found["spec"]["versions"] = [following, *([{**version, "storage": False}] if old else [])]
    return found


def stored(server: ApiServer, crds: list[Object]) -> dict[str, list[str]]:
    """In which versions runs of each kind may be stored, as their CRD says."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    names = [crd["metadata"]["name"] for crd in crds]
    return {name: server.client.request("GET", f"{path}/{name}")["status"]["storedVersions"] for name in names}


def read(server: ApiServer, namespace: str, kind: str, name: str, version: str) -> Object:
    """A run in a version."""
    path = f"/apis/{GROUP}/{version}/namespaces/{namespace}/{KINDS[kind].plural}/{name}"
    found: Object = server.client.request("GET", path)
    assert found["apiVersion"] == f"{GROUP}/{version}"
    return {key: found[key] for key in ("spec", "status") if key in found}


def documented() -> str:
    """The loop of the pages, whatever it says, that rewrites the runs."""
    (text,) = {text for _, text in commands() if "storedVersions" in text}
    return text


def test_runs_of_an_old_version_are_read_in_both_and_move_to_the_next(plane: ApiServer, tmp_path: Path) -> None:
    assert VERSION == "v1alpha1", "the pages and this test name the version after the one that is stored"
    crds = [yaml.safe_load(path.read_text()) for path in CRDS]
    plane.install_crds(*crds)
    cluster = Cluster(plane, plane.new_namespace())
    kinds = [kind for kind in KINDS if kind != "EvalRun"]  # of one kind there is none to rewrite
    for kind in kinds:
        cluster.create(kind, "old")
        cluster.set_status(kind, "old", {"phase": "Running", "attempt": 2})
    before = {kind: read(plane, cluster.namespace, kind, "old", VERSION) for kind in kinds}

    plane.install_crds(*(with_next(crd, old=True) for crd in crds))
    assert set(map(tuple, stored(plane, crds).values())) == {(VERSION, NEXT)}
    for kind in kinds:
        assert before[kind]["status"] == {"phase": "Running", "attempt": 2}
        for version in (VERSION, NEXT):
            assert read(plane, cluster.namespace, kind, "old", version) == before[kind]
        cluster.create(kind, "new")  # by a client that knows the old version only
        read(plane, cluster.namespace, kind, "new", NEXT)

    with pytest.raises(Refused, match="storedVersions"):  # the API server itself keeps what can't be done without
        plane.install_crds(*(with_next(crd, old=False) for crd in crds))

    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").symlink_to(plane.program)
    env = {"KUBECONFIG": str(plane.kubeconfig), "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = shell(documented(), tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert set(map(tuple, stored(plane, crds).values())) == {(NEXT,)}

    plane.install_crds(*(with_next(crd, old=False) for crd in crds))
    for kind in kinds:  # were one still stored as v1alpha1, it could not be read any more
        assert read(plane, cluster.namespace, kind, "old", NEXT) == before[kind]
        read(plane, cluster.namespace, kind, "new", NEXT)
        with pytest.raises(Refused):
            read(plane, cluster.namespace, kind, "old", VERSION)
