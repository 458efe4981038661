"""The API server fails in every way it can; afterwards everything is as if it had not.

QED_CHAOS_OUTAGE is the length of the long outage in seconds: some by default, 300 for an honest one.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.lives import Lives, assert_same, play, until
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.operator.harness import Cluster

pytestmark = pytest.mark.apiserver

_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_OUTAGE = float(os.environ.get("QED_CHAOS_OUTAGE") or 12)  # longer than a leader may be without its lease


@pytest.fixture
def led(own: Cluster, proxy: Proxy, tmp_path: Path) -> Iterator[Nursery]:
    """An operator with a lease behind the proxy, brought back whenever it ends, as a kubelet would."""
    flags = (f"--namespaces={own.namespace}", f"--lease-namespace={own.namespace}", "--settle-seconds=2")
    operator = Nursery(proxy.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log", *flags).start()
    yield operator
    operator.stop()


def test_conflicts_throttling_lost_answers_and_slowness_change_nothing_but_the_time(
    calm: Lives, own: Cluster, proxy: Proxy, led: Nursery
) -> None:
    seed = int(os.environ.get("QED_CHAOS_SEED") or random.randrange(10**6))
    print(f"QED_CHAOS_SEED={seed}")
    chance = random.Random(seed)

    def storm(method: str, path: str) -> int | None:
        """One in five requests is told to come back later, one in five of the other writes meets a conflict."""
        if "/leases" in path:
            return None
        if chance.random() < 0.2:
            return 429
        return 409 if method in _WRITES and chance.random() < 0.2 else None

    def forgets(method: str, path: str) -> bool:
        """One in ten of the writes that remain is done, and its answer lost."""
        return method in _WRITES and "/leases" not in path and chance.random() < 0.1

    proxy.fault, proxy.forgets, proxy.delay = storm, forgets, 0.05
    lives = Lives.of(own, 1)
    play(lives, seconds=240)  # 20 s alone; a retry waits longer each time, and a loaded machine makes more of them
    statuses = [status for _, _, status in proxy.requests]
    assert statuses.count(409) > 5 and statuses.count(429) > 10 and proxy.forgotten > 3
    assert_same(lives, calm)
    assert led.ends == [], "a storm ends no operator"


def test_a_long_outage_is_outlived(calm: Lives, own: Cluster, proxy: Proxy, led: Nursery) -> None:
    """Pods end while nobody can be asked; the leader steps down, and whoever leads then goes on."""
    lives = Lives.of(own, 1)
    until(6, lives)
    proxy.down = True
    back = time.monotonic() + _OUTAGE
    while time.monotonic() < back:
        lives.tick()  # the test has its own way to the API server
        time.sleep(0.2)
    proxy.down = False
    play(lives)
    assert_same(lives, calm)
    assert led.ends and set(led.ends) == {1}, "who has lost the lease ends, and is brought back"
