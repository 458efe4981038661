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


def test_positions_go_on_after_everything_was_acknowledged(tmp_path):
    stream = FileStream(tmp_path)
    last = stream.publish(group("a"))
    stream.acknowledge(last)
    restarted = FileStream(tmp_path)
    assert restarted.last_published() == last
    assert restarted.publish(group("b")) > last
    assert take(restarted, last)[1].id == "b"


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
