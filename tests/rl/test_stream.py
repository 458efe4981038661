from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from qednano.errors import DataError
from qednano.rl.stream import FileStream, Group, Sample


def group(name: str, samples: int = 2, tokens: int = 3) -> Group:
    one = Sample([1, 2], list(range(tokens)), [-0.1234567890123456] * tokens, 5 / 7, 3, 4, "stop")
    return Group(id=name, problem_id=f"problem-{name}", samples=[one] * samples)


def take(stream: FileStream, after: str | None, timeout: float = 5.0):
    return stream.consume(after, threading.Event(), timeout)


def test_groups_come_out_in_publish_order_and_bit_for_bit(tmp_path):
    stream = FileStream(tmp_path)
    published = [group("b"), group("a"), group("c")]
    for item in published:
        stream.publish(item)
    position, consumed = None, []
    for _ in published:
        position, item = take(stream, position)
        consumed.append(item)
    assert consumed == published


def test_publishing_the_same_id_again_changes_nothing(tmp_path):
    stream = FileStream(tmp_path)
    first = stream.publish(group("a"))
    assert stream.publish(group("a", samples=5)) == first
    assert FileStream(tmp_path).publish(group("a")) == first
    assert stream.depth() == 1


def test_ids_are_remembered_after_their_groups_were_acknowledged(tmp_path):
    stream = FileStream(tmp_path)
    positions = [stream.publish(group(name)) for name in "abc"]
    FileStream(tmp_path).acknowledge(positions[1])
    restarted = FileStream(tmp_path)
    assert restarted.decided() == {"a", "b", "c"}
    assert restarted.publish(group("a")) == positions[0]
    assert restarted.publish(group("d")) > positions[2]
    assert take(restarted, None)[1].id == "c"


def test_positions_go_on_after_everything_was_acknowledged(tmp_path):
    stream = FileStream(tmp_path)
    last = stream.publish(group("a"))
    stream.acknowledge(last)
    restarted = FileStream(tmp_path)
    assert restarted.last_published() == last
    assert restarted.publish(group("b")) > last
    assert take(restarted, last)[1].id == "b"


def test_a_resumed_trainer_gets_again_what_was_not_acknowledged(tmp_path):
    stream = FileStream(tmp_path)
    for name in "abcd":
        stream.publish(group(name))
    first, _ = take(stream, None)
    second, _ = take(stream, first)
    take(stream, second)
    stream.acknowledge(first)
    resumed = FileStream(tmp_path)
    assert take(resumed, first)[1].id == "b"
    assert resumed.depth() == 2


def test_the_consumer_says_how_many_groups_it_holds(tmp_path):
    consumer, publisher, stop = FileStream(tmp_path), FileStream(tmp_path), threading.Event()
    for name in "abc":
        publisher.publish(group(name))
    assert publisher.held() == 0
    first, _ = consumer.consume(None, stop, 0, held=0)
    second, _ = consumer.consume(first, stop, 0, held=1)
    assert publisher.held() == 2
    consumer.consume(second, stop, 0, held=0)  # what it had taken was stale or went into a step
    assert publisher.held() == 1


def test_depth_counts_what_the_consumer_has_not_taken(tmp_path):
    stream = FileStream(tmp_path)
    assert (stream.depth(), stream.last_published()) == (0, None)
    for name in "abc":
        stream.publish(group(name))
    assert stream.depth() == 3
    position, _ = take(stream, None)
    take(stream, position)
    assert (FileStream(tmp_path).depth(), FileStream(tmp_path).taken()) == (1, 2)
    take(FileStream(tmp_path), None)  # a trainer that starts again from nothing
    assert FileStream(tmp_path).depth() == 2


def test_consume_waits_for_a_publish_and_ends_on_timeout_or_stop(tmp_path):
    stream = FileStream(tmp_path)
    assert take(stream, None, timeout=0.05) is None
    stop = threading.Event()
    stop.set()
    assert stream.consume(None, stop, None) is None
    timer = threading.Timer(0.1, lambda: FileStream(tmp_path).publish(group("late")))
    timer.start()
    assert take(stream, None)[1].id == "late"
    timer.join()


def test_discarded_groups_are_skipped_after_a_restart(tmp_path):
    FileStream(tmp_path).discard("flat")
    assert "flat" in FileStream(tmp_path).decided()


def test_a_torn_log_line_is_dropped_and_the_log_stays_usable(tmp_path):
    stream = FileStream(tmp_path)
    stream.discard("kept")
    with open(stream.folder / "discarded.log", "a") as file:
        file.write("to")
    restarted = FileStream(tmp_path)
    assert restarted.decided() == {"kept"}
    restarted.discard("next")
    assert FileStream(tmp_path).decided() == {"kept", "next"}


def test_acknowledging_can_be_interrupted_between_log_and_files(tmp_path):
    stream = FileStream(tmp_path)
    position = stream.publish(group("a"))
    body = (stream.folder / f"{position}.json").read_bytes()
    stream.acknowledge(position)
    (stream.folder / f"{position}.json").write_bytes(body)  # what a crash before the delete leaves
    again = FileStream(tmp_path)
    again.acknowledge(position)
    assert not list(stream.folder.glob("*.json"))
    assert (stream.folder / "acknowledged.log").read_text().count("\n") == 1


def test_a_foreign_file_is_named_in_the_error(tmp_path):
    stream = FileStream(tmp_path)
    (stream.folder / "000000000001.json").write_text(json.dumps({"id": "x"}))
    with pytest.raises(DataError, match="000000000001.json"):
        take(stream, None)


def publish_forever(folder: str) -> None:
    stream = FileStream(folder)
    done = len(stream.decided())
    while True:
        stream.publish(group(f"g{done:05d}", samples=4, tokens=2000))
        done += 1


def test_killing_the_publisher_at_any_moment_loses_and_doubles_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    seen: list[str] = []
    position: str | None = None
    consumer = FileStream(tmp_path)
    for attempt in range(6):
        process = context.Process(target=publish_forever, args=(str(tmp_path),))
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
    while (taken := take(consumer, position, timeout=0)) is not None:
        position = taken[0]
        seen.append(taken[1].id)
    assert seen == [f"g{n:05d}" for n in range(len(seen))]
    consumer.acknowledge(FileStream(tmp_path).publish(group("last")))
    assert not [p for p in Path(consumer.folder).iterdir() if p.name.endswith((".tmp", ".json"))]


def test_two_publishers_never_share_a_position(tmp_path):
    streams = [FileStream(tmp_path), FileStream(tmp_path)]
    threads = [
        threading.Thread(target=lambda s=s, n=n: [s.publish(group(f"{n}-{i}")) for i in range(20)])
        for n, s in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    position, ids = None, set()
    while (taken := take(streams[0], position, timeout=0)) is not None:
        position = taken[0]
        ids.add(taken[1].id)
    assert len(ids) == 40
