"""The operator is killed again and again, between any two of its writes: nobody can tell afterwards."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from qednano.api import KINDS
from tests.chaos.lives import WAITS, Lives, assert_same, play
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.kube.apiserver import ApiServer
from tests.operator.harness import Cluster

pytestmark = pytest.mark.apiserver

_KILLS = 30  # while runs of all kinds live
_LATE = 4  # while they end
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


def cluster_of(server: ApiServer) -> Cluster:
    """A fresh namespace."""
    return Cluster(server, server.new_namespace())


def flags(cluster: Cluster) -> tuple[str, ...]:
    """An operator of that namespace only; a lease would make each successor wait."""
    return f"--namespaces={cluster.namespace}", "--leader-election=false"


def test_an_operator_that_is_killed_thirty_times_leaves_what_one_that_lives_leaves(
    qed_server: ApiServer, proxy: Proxy, tmp_path: Path
) -> None:
    seed = int(os.environ.get("QED_CHAOS_SEED") or random.randrange(10**6))
    print(f"QED_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    # Four runs make some seventy writes before they end, under so many kills, and some twenty while they end.
    points = sorted(chance.sample(range(1, 56), _KILLS)) + sorted(chance.sample(range(60, 72), _LATE))
    killed: list[tuple[int, str, set[str]]] = []
    count = 0
    calm, stormy = (cluster_of(qed_server) for _ in range(2))
    steady = Nursery(qed_server.kubeconfig, tmp_path / "calm.log", *flags(calm)).start()
    mortal = Nursery(proxy.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "stormy.log", *flags(stormy))

    def strike(what: str) -> bool:
        struck = mortal.kill()
        if struck:
            killed.append((count, what, lives.unended()))
        return struck

    def may_end() -> bool:
        """Runs of all kinds live until the kills for their lives are used up; the last may find nothing to write."""
        if len(killed) < _KILLS and all(life.chapter == WAITS for life in lives.lives):
            strike("at rest")
        return len(killed) >= _KILLS

    def kill_at_points(method: str, path: str) -> int | None:
        """Before a write reaches the API server or, as often, when it is done and its answer is on the way."""
        nonlocal count
        if method not in _WRITES:
            return None
        count += 1
        if len(killed) < len(points) and count >= points[len(killed)] and strike(f"{method} {path}"):
            return 503 if chance.random() < 0.5 else None
        return None

    proxy.fault = kill_at_points
    began = time.monotonic()
    try:
        expected, lives = Lives.of(calm, 1), Lives.of(stormy, 1)
        lives.may_end = may_end
        mortal.start()
        play(expected, lives, seconds=100)
        print(f"{len(killed)} kills, {count} writes, {time.monotonic() - began:.1f} s")
        print("\n".join(f"  write {number}: {what}" for number, what, _ in killed))
    finally:
        mortal.stop()
        steady.stop()
    for kind in KINDS:
        assert sum(kind in unended for _, _, unended in killed) >= _KILLS, f"{kind} ended too early"
    assert_same(lives, expected)
