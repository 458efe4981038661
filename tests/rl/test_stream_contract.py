"""What every sample stream promises: the same tests for files and for a real Redis."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from qednano.errors import ConfigError, Stopped, Unavailable
from qednano.rl.redis_stream import RedisStream
from qednano.rl.stream import FileStream, Group, Sample, SampleStream
from tests.rl.redis_server import RedisServer

Opened = Callable[[], SampleStream]


def group(name: str, samples: int = 2, tokens: int = 3) -> Group:
    one = Sample([1, 2], list(range(tokens)), [-0.1234567890123456] * tokens, 5 / 7, 3, 4, "stop", [-0.5] * tokens)
    return Group(id=name, problem_id=f"problem-{name}", samples=[one] * samples)


def take(stream: SampleStream, after: str | None, timeout: float = 5.0, held: int = 0):
    return stream.consume(after, threading.Event(), timeout, held)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["files", "redis"])
def opened(request, tmp_path) -> Opened:
    """Opens the same stream anew at each call, as a restarted process would."""
    if request.param == "files":
        return lambda: FileStream(tmp_path)
    server = request.getfixturevalue("redis_server")
    return lambda: RedisStream(server.url, str(tmp_path), password="secret", patience=20)


def test_groups_come_out_in_publish_order_and_bit_for_bit(opened):
    stream = opened()
    published = [group("b"), group("a"), group("c")]
    for item in published:
        stream.publish(item)
    position, consumed = None, []
    for _ in published:
        position, item = take(stream, position)
        consumed.append(item)
    assert consumed == published


def test_publishing_the_same_id_again_changes_nothing(opened):
    stream = opened()
    first = stream.publish(group("a"))
    assert stream.publish(group("a", samples=5)) == first
    assert opened().publish(group("a")) == first
    assert stream.backlog() == (1, 0)


def test_ids_are_remembered_after_their_groups_were_acknowledged(opened):
    stream = opened()
    positions = [stream.publish(group(name)) for name in "abc"]
    opened().acknowledge(positions[1])
    restarted = opened()
    assert restarted.decided() == {"a", "b", "c"}
    assert restarted.publish(group("a")) == positions[0]
    assert restarted.publish(group("d")) > positions[2]
    assert take(restarted, None)[1].id == "c"


def test_positions_go_on_after_everything_was_acknowledged(opened):
    stream = opened()
    last = stream.publish(group("a"))
    stream.acknowledge(last)
    restarted = opened()
    assert restarted.publish(group("b")) > last
    assert take(restarted, last)[1].id == "b"


def test_a_resumed_trainer_gets_again_what_was_not_acknowledged(opened):
    stream = opened()
    for name in "abcd":
        stream.publish(group(name))
    first, _ = take(stream, None)
    second, _ = take(stream, first)
    take(stream, second)
    stream.acknowledge(first)
    resumed = opened()
    assert take(resumed, first)[1].id == "b"
    assert resumed.backlog()[0] == 2


def test_the_consumer_says_how_many_groups_it_holds(opened):
    consumer, publisher = opened(), opened()
    for name in "abc":
        publisher.publish(group(name))
    assert publisher.backlog() == (3, 0)
    first, _ = take(consumer, None)
    second, _ = take(consumer, first, held=1)
    assert publisher.backlog() == (1, 2)
    take(consumer, second)  # what it had taken was stale or went into a step
    assert publisher.backlog() == (0, 1)
    take(opened(), None)  # a trainer that starts again from nothing
    assert publisher.backlog() == (2, 1)


def test_consume_waits_for_a_publish_and_ends_on_timeout_or_stop(opened):
    stream = opened()
    assert take(stream, None, timeout=0.05) is None
    stop = threading.Event()
    stop.set()
    assert stream.consume(None, stop, None) is None
    late = opened()
    timer = threading.Timer(0.1, lambda: late.publish(group("late")))
    timer.start()
    assert take(stream, None)[1].id == "late"
    timer.join()


def test_discarded_groups_are_skipped_after_a_restart(opened):
    opened().discard("flat")
    assert opened().decided() == {"flat"}
    assert take(opened(), None, timeout=0.05) is None


def test_acknowledging_twice_or_going_back_loses_nothing(opened):
    stream = opened()
    first, second, third = (stream.publish(group(name)) for name in "abc")
    stream.acknowledge(second)
    stream.acknowledge(first)
    stream.acknowledge(second)
    position, item = take(opened(), None)
    assert (position, item.id) == (third, "c")


def _publish_forever(opened: Opened) -> None:
    stream = opened()
    done = len(stream.decided())
    while True:
        stream.publish(group(f"g{done:05d}", samples=4, tokens=2000))
        done += 1


def test_killing_the_publisher_at_any_moment_loses_and_doubles_nothing(opened):
    context = multiprocessing.get_context("fork")
    seen: list[str] = []
    position: str | None = None
    consumer = opened()
    for attempt in range(5):
        process = context.Process(target=_publish_forever, args=(opened,))
        process.start()
        for _ in range(5):
            taken = take(consumer, position, timeout=20)
            assert taken is not None
            position = taken[0]
            seen.append(taken[1].id)
        time.sleep(0.003 * attempt)  # moves the kill to another moment of a write
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        consumer.acknowledge(position)
    while (taken := take(consumer, position, timeout=0.05)) is not None:
        position = taken[0]
        seen.append(taken[1].id)
    assert seen == [f"g{n:05d}" for n in range(len(seen))]


def test_two_publishers_never_share_a_position(opened):
    streams = [opened(), opened()]
    threads = [
        threading.Thread(target=lambda s=s, n=n: [s.publish(group(f"{n}-{i}")) for i in range(20)])
        for n, s in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    position, ids = None, set()
    while (taken := take(streams[0], position, timeout=0.05)) is not None:
        position = taken[0]
        ids.add(taken[1].id)
    assert len(ids) == 40


def test_a_group_that_two_publishers_have_is_there_once(opened):
    """An actor that was taken for dead, and its successor: both had read what was decided before either published."""
    first, second = opened(), opened()
    assert first.decided() == second.decided() == set()
    positions = [first.publish(group("a")), second.publish(group("b")), first.publish(group("c"))]
    assert [second.publish(group(name, samples=5)) for name in "abc"] == positions
    assert [first.publish(group(name, samples=5)) for name in "abc"] == positions
    consumer, seen, position = opened(), [], None
    while (taken := take(consumer, position, timeout=0.05)) is not None:
        position = taken[0]
        seen.append(taken[1])
    assert seen == [group(name) for name in "abc"]


def test_two_publishers_of_the_same_groups_at_once_leave_each_once(opened):
    streams = [opened(), opened()]
    threads = [
        threading.Thread(target=lambda s=s: [s.publish(group(f"g{number}")) for number in range(30)]) for s in streams
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    position, ids = None, []
    while (taken := take(streams[0], position, timeout=0.05)) is not None:
        position = taken[0]
        ids.append(taken[1].id)
    assert sorted(ids) == sorted(f"g{number}" for number in range(30))


# -- what only a server can do --------------------------------------------------------------------------------------


def test_killing_redis_at_any_moment_loses_and_doubles_nothing(tmp_path):
    server = RedisServer(tmp_path)
    server.start()
    try:
        publisher, consumer = (RedisStream(server.url, "r", password="secret", patience=20) for _ in range(2))
        threading.Thread(
            target=lambda: [publisher.publish(group(f"g{n:05d}", tokens=200)) for n in range(600)], daemon=True
        ).start()
        seen, position = [], None
        for number in range(600):
            if number in (50, 200, 400):
                server.kill()
                threading.Timer(0.2, server.start).start()
            taken = take(consumer, position, timeout=30)
            assert taken is not None
            position = taken[0]
            seen.append(taken[1].id)
            if number % 100 == 99:
                consumer.acknowledge(position)
        assert seen == [f"g{n:05d}" for n in range(600)]
        assert len(publisher.decided()) == 600
    finally:
        server.kill()


def test_a_redis_that_is_gone_or_refuses_is_named(tmp_path, redis_server):
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/0"):
        RedisStream("redis://127.0.0.1:1/0", "r", patience=0.2).publish(group("a"))
    with pytest.raises(ConfigError, match=r"spec\.stream\.redis"):
        RedisStream(redis_server.url, "r", password="wrong").publish(group("a"))


def test_numbers_that_a_server_lost_are_not_given_again(redis_server):
    stream = RedisStream(redis_server.url, "lost", password="secret")
    stream.publish(group("a"))
    position = f"{7:012d}"  # the consumer's checkpoint is further than the server remembers
    assert take(stream, position, timeout=0.01) is None
    assert stream.publish(group("b")) > position
    assert take(stream, position)[1].id == "b"


def test_a_consumer_that_waits_goes_on_with_a_server_that_came_back_without_anything(tmp_path):
    """Nobody sees the restart but by the broken connection: it takes a tenth of a second."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        publisher, consumer = (RedisStream(server.url, "r", password="secret", patience=20) for _ in range(2))
        position = None
        for name in "abcdef":
            publisher.publish(group(name))
        for _ in "abcdef":
            position, _ = take(consumer, position)
        found: list = []
        waiting = threading.Thread(target=lambda: found.append(take(consumer, position, timeout=20)), daemon=True)
        waiting.start()
        time.sleep(0.1)
        server.kill()
        shutil.rmtree(tmp_path / "appendonlydir")
        server.start()
        time.sleep(0.5)  # the consumer has asked again
        publisher.publish(group("g"))
        assert publisher.backlog()[0] <= 1, "nothing that only seems to wait keeps the publisher back"
        waiting.join(10)
        assert found and found[0][1].id == "g" and found[0][0] > position
    finally:
        server.kill()


def test_who_waits_for_a_server_that_is_away_can_be_stopped():
    stop = threading.Event()
    stream = RedisStream("redis://127.0.0.1:1/0", "r", patience=600, stop=stop)
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    assert stream.consume(None, stop, None) is None, "so that the trainer saves what it has"
    for ask in (lambda: stream.publish(group("a")), lambda: stream.acknowledge(f"{1:012d}"), stream.backlog):
        with pytest.raises(Stopped, match=r"127\.0\.0\.1:1/0"):
            ask()
    assert time.monotonic() - began < 10
