"""A watch that dies in silence: it is opened anew, what it missed is found, and what stays dead is told."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.chaos.conftest import with_flags
from tests.chaos.proxy import Proxy
from tests.operator.harness import QUICK, Cluster, OperatorProcess, eventually, fail, succeed, unique

pytestmark = pytest.mark.apiserver


def healthy(operator: OperatorProcess) -> str:
    """What /healthz says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.port}/healthz", timeout=5) as answer:
            return str(answer.read().decode().strip())
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read().decode().strip()}"


def corrections(operator: OperatorProcess) -> float:
    """Runs that a list showed otherwise than the watches had told."""
    found = re.search(r"^qednano_operator_resync_corrections_total (\S+)", operator.get("/metrics"), re.M)
    return float(found.group(1)) if found else 0.0


def watching(own: Cluster) -> None:
    """Return when the operator has watches: what it listed before them is no test of them."""
    name = unique()
    own.create("SFTRun", name)
    own.wait_pods(name, "trainer")


@pytest.fixture
def late(own: Cluster, proxy: Proxy, behind: OperatorProcess) -> Iterator[OperatorProcess]:
    """An operator that only watches can tell anything, and whose watch of pods lags behind for as long as the test."""
    with_flags(behind, "--silence-seconds=3600", "--resync-seconds=3600")
    watching(own)
    proxy.lags = lambda path: path.endswith("/pods")
    yield behind
    proxy.lags = lambda path: False


def test_a_watch_that_fell_silent_is_opened_anew(own: Cluster, proxy: Proxy, behind: OperatorProcess) -> None:
    with_flags(behind, "--silence-seconds=5", "--resync-seconds=3600")
    watching(own)
    proxy.mute = True
    late = unique()
    own.create("SFTRun", late)
    eventually(lambda: proxy.swallowed > 0, what="an event is lost")
    proxy.mute = False
    own.wait_pods(late, "trainer")
    assert healthy(behind) == "ok"


def test_what_dead_watches_miss_is_found_and_dead_watches_are_told(
    own: Cluster, proxy: Proxy, behind: OperatorProcess
) -> None:
    with_flags(behind, "--silence-seconds=3600", "--resync-seconds=4")  # nothing but lists can help
    watching(own)
    proxy.mute = True
    name = unique()
    own.create("SFTRun", name)
    own.wait_pods(name, "trainer")
    assert corrections(behind) >= 1

    def unwell() -> bool:
        own.create("ProofDataset", unique("data"))  # changes that only a list shows
        return healthy(behind).startswith("500: the watches missed changes")

    eventually(unwell, what="/healthz fails")
    proxy.mute = False
    eventually(lambda: healthy(behind) == "ok", what="health comes back with the watches")


def test_a_list_that_overtakes_an_event_shows_nothing_missed(
    own: Cluster, proxy: Proxy, behind: OperatorProcess
) -> None:
    with_flags(behind, "--resync-seconds=1")
    watching(own)

    def compared() -> int:
        return sum(method == "GET" and path.endswith("/resourcequotas") for method, path, _ in list(proxy.requests))

    before = compared()
    while compared() < before + 3:  # runs come all the time while lists are compared
        own.create("ProofDataset", unique("data"))
    assert corrections(behind) == 0


def test_how_a_pod_ended_is_known_though_its_watch_is_behind_that_of_its_job(
    own: Cluster, proxy: Proxy, late: OperatorProcess
) -> None:
    """A failure counts though the pod was never seen, and what the run made is not lost."""
    name = unique()
    own.create("SFTRun", name, restart={**QUICK, "maxRestarts": 1})
    (pod,) = own.wait_pods(name, "trainer", attempt=1)
    own.start(pod)
    own.end(pod, 70, fail("InternalError", "the loss went away"))
    (pod,) = own.wait_pods(name, "trainer", attempt=2)
    own.start(pod)
    own.end(pod, 0, succeed())
    status = own.phase("SFTRun", name, "Succeeded")
    assert proxy.held, "the watch of pods had something to tell"
    (ended,) = status["attempts"]
    assert (ended["reason"], ended["message"], ended["exitCode"]) == ("InternalError", "the loss went away", 70)
    assert status["countedRestarts"] == 1
    assert status["artifact"]["digest"].startswith("sha256:")


def test_no_run_is_called_suspended_while_a_pod_lives_of_which_its_watch_is_yet_to_tell(
    own: Cluster, proxy: Proxy, late: OperatorProcess
) -> None:
    name = unique()
    own.create("SFTRun", name)
    (pod,) = own.wait_pods(name, "trainer")
    own.start(pod)
    own.patch("SFTRun", name, {"suspend": True})
    eventually(lambda: not own.children("jobs", name), what="its Job is gone")
    eventually(lambda: not own.pods(name), what="its pod is asked to go")
    assert len(own.children("pods", name)) == 1, "which takes the pod a while"
    time.sleep(3)
    assert own.status("SFTRun", name)["phase"] == "Suspending"
    proxy.lags = lambda path: False
    own.reap(name)
    own.phase("SFTRun", name, "Suspended")
