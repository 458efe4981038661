from __future__ import annotations

import time

from qednano.rl.pool import LAPSE_SECONDS, Pool, ServerRecord, announce, withdraw


def record(name: str, heartbeat: float | None = None, pid: int = 1, version: int = 0) -> ServerRecord:
    return ServerRecord(name, f"http://{name}", version, time.time() if heartbeat is None else heartbeat, pid)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_server_lives_as_long_as_its_heartbeat_changes(tmp_path):
    clock = Clock()
    pool = Pool(tmp_path, "rollout", clock)
    announce(tmp_path, record("rollout-0"))
    assert [server.name for server in pool.servers()] == ["rollout-0"]
    clock.now += LAPSE_SECONDS + 1
    assert pool.servers() == []
    announce(tmp_path, record("rollout-0", time.time() + 1, version=3))
    assert [server.version for server in pool.servers()] == [3]


def test_a_clock_that_is_off_does_not_lose_a_server_that_beats(tmp_path):
    clock = Clock()
    pool = Pool(tmp_path, "rollout", clock)
    announce(tmp_path, record("rollout-0", heartbeat=1000.0))
    assert pool.servers() == [], "an old record of unknown age"
    announce(tmp_path, record("rollout-0", heartbeat=1001.0))
    assert len(pool.servers()) == 1


def test_other_roles_and_half_written_files_are_no_servers(tmp_path):
    pool = Pool(tmp_path, "rollout")
    announce(tmp_path, record("grader-0"))
    (tmp_path / "pool/rollout-9.json").write_text('{"name": "rollo')
    assert pool.servers() == []


def test_withdrawing_leaves_a_successor_alone(tmp_path):
    old, new = record("rollout-0", pid=1), record("rollout-0", pid=2)
    announce(tmp_path, old)
    announce(tmp_path, new)
    withdraw(tmp_path, old)
    assert [server.pid for server in Pool(tmp_path, "rollout").servers()] == [2]
    withdraw(tmp_path, new)
    assert Pool(tmp_path, "rollout").servers() == []


async def test_requests_go_to_the_least_busy_trusted_server(tmp_path):
    clock = Clock()
    pool = Pool(tmp_path, "rollout", clock)
    for name in ("rollout-0", "rollout-1"):
        announce(tmp_path, record(name))
    first = pool.choose()
    async with pool.busy(first):
        second = pool.choose()
        assert {first.name, second.name} == {"rollout-0", "rollout-1"}
        pool.distrust(second)
        assert pool.choose() == first
        clock.now += 3
        assert pool.choose() == second
    assert pool.in_flight[first.url] == 0
