"""pytest plugin: an API server with the four kinds, and a namespace on it, for every folder that meets an operator."""

from __future__ import annotations

import pytest
import yaml

from tests.kube.apiserver import ApiServer
from tests.operator.harness import NODE, Cluster
from tools.cluster.paths import REPOSITORY

CRDS = sorted((REPOSITORY / "charts/qednano/files/crds").glob("*.yaml"))


@pytest.fixture(scope="session")
def qed_server(apiserver_with_controllers: ApiServer) -> ApiServer:
    """An API server with the four kinds and one node."""
    server = apiserver_with_controllers
    server.install_crds(*(yaml.safe_load(path.read_text()) for path in CRDS))
    server.client.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
    return server


@pytest.fixture
def own(qed_server: ApiServer) -> Cluster:
    """A namespace that no operator serves yet."""
    return Cluster(qed_server, qed_server.new_namespace())
