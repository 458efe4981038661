"""The Redis of a run's own: found by the others, closed to strangers, and what it acknowledged survives kill -9."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import redis

from qednano.errors import Stopped, Unavailable
from qednano.llm.vllm import free_port
from qednano.rl.own_redis import known_address, wait_for_address
from qednano.rl.redis_stream import RedisStream
from tests.llm.server import start
from tests.rl.test_kills import end, until
from tests.rl.test_stream_contract import group

SPEC = {
    "model": {"uri": "unused"},
    "dataset": {"uri": "unused"},
    "algorithm": {"maxSteps": 1},
    "grader": {"checker": {"name": "tiny-divisibility"}},
    "stream": {"redis": {}},
}


def begin(run_dir: Path, attempt: int):
    process, _, log = start(run_dir, "stream", "RLRun", SPEC, {}, "stream", free_port(), attempt)
    return process, log


def test_what_it_acknowledged_survives_its_death_and_clients_find_it_again(tmp_path):
    first, log = begin(tmp_path, 1)
    try:
        address = wait_for_address(tmp_path, threading.Event(), 30)
        stream = RedisStream(address.url, "run", password=address.password, patience=30)
        position = stream.publish(group("g1"))
        file = tmp_path / "redis" / "address.json"
        assert file.stat().st_mode & 0o777 == 0o600
        shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not any(address.password.encode() in line for line in shown)
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=address.port, password="a guess").ping()
        end(first)
        second, log = begin(tmp_path, 2)  # at once: the server left behind may still be ending
        try:
            until(lambda: "Ready to accept connections" in log.read_text(), second)
            assert stream.publish(group("g1")) == position, "the same client, asking again"
            assert known_address(tmp_path) == address
            assert stream.consume(None, threading.Event(), 5)[1] == group("g1")
            second.terminate()
            assert second.wait(30) == Stopped.exit_code, log.read_text()[-1000:]
        finally:
            end(second)
    finally:
        end(first)


def test_a_server_that_ends_ends_the_role(tmp_path):
    process, log = begin(tmp_path, 1)
    try:
        address = wait_for_address(tmp_path, threading.Event(), 30)
        with redis.Redis(port=address.port, password=address.password) as client:
            client.shutdown(nosave=True)
        until(lambda: process.poll() is not None, seconds=30)
        assert process.returncode == Unavailable.exit_code
        assert "redis-server ended" in log.read_text()
    finally:
        end(process)


def test_a_missing_server_is_waited_for_and_then_told(tmp_path):
    with pytest.raises(Unavailable, match="role stream"):
        wait_for_address(tmp_path, threading.Event(), 0.0)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        wait_for_address(tmp_path, stop, 5)
