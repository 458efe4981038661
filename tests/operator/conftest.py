"""One operator process and one namespace serve most tests; tests that kill operators have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.apiserver import ApiServer
from tests.operator import chart
from tests.operator.harness import Cluster, OperatorProcess
from tools.cluster.paths import REPOSITORY

CRDS = sorted((REPOSITORY / "charts/qednano/files/crds").glob("*.yaml"))


@pytest.fixture(scope="session")
def operator(qed_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator of the shared namespace, with the chart's flags and no rights but the chart's."""
    for name in ("shared", chart.SYSTEM):
        # From Kubernetes 1.23 on the API server itself refuses pods here that are not restricted.
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        qed_server.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    objects = chart.render("--set", "operator.namespaces={shared}")
    chart.install(qed_server, chart.only(objects, "ServiceAccount", "Role", "RoleBinding"))
    folder = tmp_path_factory.mktemp("operator")
    kubeconfig = chart.kubeconfig_of(qed_server, "qed-qednano", folder / "kubeconfig")
    process = OperatorProcess(kubeconfig, folder / "operator.log", chart.operator_flags(objects)).start()
    yield process
    assert process.stop() == 0, process.log.read_text()[-3000:]
    assert " is forbidden" not in process.log.read_text(), "the chart's roles are too narrow"


@pytest.fixture
def cluster(qed_server: ApiServer, operator: OperatorProcess) -> Cluster:
    """The shared namespace, served by the shared operator."""
    return Cluster(qed_server, "shared")


@pytest.fixture
def own_operator(qed_server: ApiServer, own: Cluster, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator for the test's own namespace, not started yet; without a lease, which a kill would leave behind."""
    flags = (f"--namespaces={own.namespace}", "--leader-election=false")
    process = OperatorProcess(qed_server.kubeconfig, tmp_path / "operator.log", flags)
    yield process
    process.end()
