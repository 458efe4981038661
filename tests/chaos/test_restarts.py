"""kube-apiserver and etcd are killed and started again amid runs of every kind, which go on and end as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chaos.lives import Lives, assert_same, play, until
from tests.chaos.nursery import Nursery
from tests.kube import apiserver
from tests.kube.apiserver import ApiServer
from tests.operator.fixtures import CRDS
from tests.operator.harness import NODE, Cluster, eventually

pytestmark = pytest.mark.apiserver


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ApiServer]:
    """A control plane of the test's own, parts of which may be killed."""
    server = apiserver.start(tmp_path / "plane", controllers=True)
    try:
        server.install_crds(*(yaml.safe_load(path.read_text()) for path in CRDS))
        server.client.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        yield server
    finally:
        server.plane.stop()


def test_the_api_server_and_etcd_are_killed_and_runs_go_on(calm: Lives, mortal: ApiServer, tmp_path: Path) -> None:
    cluster = Cluster(mortal, mortal.new_namespace())
    log = tmp_path / "operator.log"
    flags = (f"--namespaces={cluster.namespace}", f"--lease-namespace={cluster.namespace}", "--settle-seconds=2")
    operator = Nursery(mortal.kubeconfig, log, *flags).start()
    try:
        lives = Lives.of(cluster, 1)
        for part, chapters in (("kube-apiserver", 3), ("etcd", 9)):
            until(chapters, lives)
            before = log.stat().st_size
            mortal.plane.kill("crd-groups")  # else it takes the API server's first, empty list for the truth
            mortal.plane.kill(part)
            eventually(lambda size=before: log.stat().st_size > size, what=f"the operator misses {part}")
            mortal.plane.start(controllers=True)
            eventually(lambda: mortal.client.ready(cluster.path("SFTRun")), what="the kinds are back")
        play(lives, seconds=60)
        assert_same(lives, calm)
    finally:
        operator.stop()
