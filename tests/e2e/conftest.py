"""The cluster of the end-to-end tests: the one that QEDNANO_KUBECONFIG names, else kind, else the native one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.apiserver import Kubectl
from tools.cluster import binaries
from tools.cluster.__main__ import Cluster, choose
from tools.cluster.errors import ClusterError
from tools.cluster.images import NAMES
from tools.cluster.native import NativeCluster
from tools.cluster.paths import cache
from tools.release import install


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """A cluster that is up; the native one is started when it is not, and stays up for the next session."""
    found = choose(None, native=False)
    try:
        found.up()
    except ClusterError as error:
        pytest.fail(str(error))
    return found


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Kubectl:
    """kubectl on that cluster."""
    return Kubectl(cluster.kubeconfig, binaries.from_cache(cache()).kubectl)


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> None:
    """The operator, from its image, installed by the chart."""
    cluster.load(NAMES)
    install(cluster.kubeconfig)


@pytest.fixture
def space(cluster: Cluster, kube: Kubectl) -> Iterator[str]:
    """A fresh namespace in which the shared volume can be claimed as `qednano`."""
    name = kube.new_namespace()
    cluster.claim(name)
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")
    kube.kubectl("delete", "persistentvolume", f"qednano-{name}", "--wait=false", "--ignore-not-found")


@pytest.fixture(scope="session")
def python_image(cluster: Cluster) -> str:
    """An image with Python and nothing else."""
    if isinstance(cluster, NativeCluster):
        return cluster.load_base()
    return "docker.io/library/python:3.11-slim-bookworm"
