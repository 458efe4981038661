"""An operator behind a proxy that misbehaves, in a namespace of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.lives import Lives, play
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.kube.apiserver import ApiServer
from tests.operator.harness import Cluster, OperatorProcess


@pytest.fixture(scope="session")
def calm(qed_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """How lives end when nothing fails."""
    cluster = Cluster(qed_server, qed_server.new_namespace())
    log = tmp_path_factory.mktemp("calm") / "operator.log"
    operator = Nursery(qed_server.kubeconfig, log, f"--namespaces={cluster.namespace}", "--leader-election=false")
    operator.start()
    try:
        lives = Lives.of(cluster, 1)
        play(lives)
    finally:
        operator.stop()
    return lives


@pytest.fixture
def proxy(qed_server: ApiServer) -> Iterator[Proxy]:
    """The proxy, faultless so far."""
    found = Proxy(qed_server.client).start()
    yield found
    found.stop()


@pytest.fixture
def behind(own: Cluster, proxy: Proxy, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator that reaches the API server through the proxy only; impatient, and not started yet."""
    flags = (f"--namespaces={own.namespace}", "--leader-election=false", "--settle-seconds=2")
    process = OperatorProcess(proxy.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log", flags)
    yield process
    process.end()


def with_flags(operator: OperatorProcess, *flags: str) -> OperatorProcess:
    """The operator with further flags, started."""
    operator.flags = (*operator.flags, *flags)
    return operator.start()
