"""A leader that is asked to stop finishes what it writes, begins nothing more, and gives its lease up."""

from __future__ import annotations

import time

import pytest

from tests.chaos.conftest import with_flags
from tests.chaos.proxy import Proxy
from tests.operator.harness import Cluster, OperatorProcess, eventually, unique

pytestmark = pytest.mark.apiserver


def test_sigterm_in_the_middle_of_a_pass(own: Cluster, proxy: Proxy, behind: OperatorProcess) -> None:
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{own.namespace}/leases/qednano-operator"
    elect = ("--leader-election=true", f"--lease-namespace={own.namespace}", "--workers=1")
    operator = with_flags(behind, *elect)
    eventually(lambda: "qednano_operator_leader 1.0" in operator.get("/metrics"), what="it leads")
    name = unique("sft")
    asked: list[str] = []

    def note(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith(f"/{name}/status") and not asked:
            proxy.delay = 4.0
            asked.append(path)

    proxy.fault = note
    own.create("SFTRun", name)
    eventually(lambda: asked, what="the start is being written")
    assert not own.status("SFTRun", name)
    started = time.monotonic()
    operator.process.terminate()  # type: ignore[union-attr]
    proxy.delay = 0.0
    assert operator.process.wait(40) == 0  # type: ignore[union-attr]
    assert time.monotonic() - started < 15
    assert own.status("SFTRun", name)["startTime"]
    assert "Starting" in dict(own.events(name)), "the pass was carried to its end, its event included"
    assert own.server.client.request("GET", lease)["spec"]["holderIdentity"] == ""
    text = operator.log.read_text()
    assert "Traceback" not in text and "exception was never retrieved" not in text
