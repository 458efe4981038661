"""The leader is killed: the standby takes over when the lease has run out, and makes nothing a second time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.kube.apiserver import ApiServer
from tests.operator.harness import Cluster, OperatorProcess, eventually, succeed, unique

pytestmark = pytest.mark.apiserver


def test_a_killed_leader_is_replaced_and_no_run_notices(qed_server: ApiServer, own: Cluster, tmp_path: Path) -> None:
    flags = (f"--namespaces={own.namespace}", f"--lease-namespace={own.namespace}")
    first, standby = (OperatorProcess(qed_server.kubeconfig, tmp_path / f"{name}.log", flags) for name in "ab")
    running, fresh = unique("running"), unique("fresh")
    try:
        first.start()
        eventually(lambda: "qednano_operator_leader 1.0" in first.get("/metrics"), what="the first leads")
        standby.start()
        own.create("SFTRun", running)
        own.start(*own.wait_pods(running, "trainer"))
        own.phase("SFTRun", running, "Running")
        first.kill()
        killed = time.monotonic()
        own.create("SFTRun", fresh)  # while nobody leads
        eventually(lambda: "qednano_operator_leader 1.0" in standby.get("/metrics"), what="the second leads")
        print(f"takeover after {time.monotonic() - killed:.1f} s")
        assert time.monotonic() - killed < 20
        own.wait_pods(fresh, "trainer")
        (pod,) = own.wait_pods(running, "trainer", attempt=1)
        own.end(pod, 0, succeed())
        status = own.phase("SFTRun", running, "Succeeded")
        assert status["attempt"] == 1 and len(own.children("jobs", running)) == 1
    finally:
        first.end()
        standby.end()
