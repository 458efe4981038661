"""A whole RL run as real processes (only vLLM is a stand-in): servers come, go and die, and so does everything else."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import torch
from safetensors.torch import load_file

from qednano.rl import weights
from qednano.rl.pool import Pool
from qednano.rl.stream import FileStream, Group, decode
from qednano.tiny import problems
from tests.llm.server import RunningServer, serve, stand_in, start
from tests.rl.redis_server import RedisServer


def spec(model: Path, **more: object) -> dict:
    return {
        "model": {"uri": str(model)},
        "dataset": {"uri": "unused"},
        "algorithm": {
            "maxSteps": 8, "groupSize": 4, "problemsPerStep": 2, "maxStaleness": 100, "dropZeroVariance": False,
        },
        "sampling": {"maxTokens": 100},
        "rollout": {"maxModelLength": 256, "maxConcurrent": 64, "resources": {"gpus": 1}},
        "actor": {"concurrentGroups": 4},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "trainer": {
            "sequenceLength": 256, "microBatchTokens": 1024, "precision": "fp32", "threads": 1, "learningRate": "1e-3",
        },
        "checkpoint": {"everySteps": 3, "keepLast": 1},
        **more,
    }  # fmt: skip


@pytest.fixture
def dataset(tmp_path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = ({"id": f"p{n}", "problem": item.text} for n, item in enumerate(problems.generate(seed=1, count=200)))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def until(condition, *processes: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        for process in processes:
            assert process.poll() is None, f"a process ended with {process.returncode}"
        time.sleep(0.01)


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def events(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def answering(log: Path) -> bool:
    """Whether the stand-in that writes this log has an answer under way."""
    seen = [event["event"] for event in events(log)]
    return seen.count("complete") > seen.count("answered") + seen.count("aborted")


class Consumed(threading.Thread):
    """Takes groups from the stream as a trainer would, so that the actor goes on."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(daemon=True)
        self.stream, self.found, self._stop_now = FileStream(run_dir), [], threading.Event()

    def run(self) -> None:
        position = None
        while (taken := self.stream.consume(position, self._stop_now)) is not None:
            position = taken[0]
            self.found.append(taken[1])

    def end(self) -> None:
        self._stop_now.set()
        self.join()


def test_servers_come_go_and_die_in_mid_request_and_no_token_is_lost(tmp_path, model_folder, dataset):
    run_dir, log = tmp_path / "run", tmp_path / "stand-in.log"
    asked = spec(model_folder)
    inputs = {"model": str(model_folder), "dataset": str(dataset)}

    def server(index: int) -> contextlib.AbstractContextManager[RunningServer]:
        env = stand_in(log.with_suffix(f".{index}"), tokens_per_second=100, chunk=8)
        return serve(run_dir, "RLRun", asked, inputs, "rollout", index, env)

    with contextlib.ExitStack() as stack:
        dying = stack.enter_context(server(0))
        dying.wait(dying.health, what="first server")
        actor, *_ = start(run_dir, "rl_actor", "RLRun", asked, inputs, "actor")
        stack.callback(end, actor)
        groups = Consumed(run_dir)
        groups.start()
        stack.callback(groups.end)
        busy = lambda index: answering(log.with_suffix(f".{index}"))  # noqa: E731
        until(lambda: len(groups.found) >= 2, actor)
        weights.publish(run_dir, 3, lambda folder: shutil.copytree(model_folder, folder, dirs_exist_ok=True))
        joiner = stack.enter_context(server(1))
        joiner.wait(joiner.health, what="late joiner")
        assert joiner.health()["version"] == 3, "it is ready with the current weights only"
        until(lambda: busy(0) and busy(1), actor)
        time.sleep(0.3)  # into the middle of answers
        dying.process.send_signal(signal.SIGKILL)
        had = len(groups.found)
        until(lambda: len(groups.found) >= had + 4, actor)
        other = stack.enter_context(server(2))
        other.wait(other.health, what="third server")
        until(lambda: busy(1), actor)
        joiner.process.send_signal(signal.SIGTERM)
        assert joiner.process.wait(30) == 75
        had = len(groups.found)
        until(lambda: len(groups.found) >= had + 4, actor)
        names = {record.name for record in Pool(run_dir, "rollout").servers()}
        assert "rollout-2" in names and "rollout-1" not in names
    went_on = [
        event
        for index in (1, 2)
        for event in events(log.with_suffix(f".{index}"))
        if event["event"] == "complete" and event["n"] == 1 and event["prompt"] > 70
    ]
    assert went_on, "answers went on from the tokens that they had"
    texts = {problem.text for problem in problems.generate(seed=1, count=200)}
    mixed = 0
    for group in groups.found:
        for sample in group.samples:
            assert bytes(sample.prompt_ids[:-1]).decode() in texts
            made_by = {round(-1000 * (logprob + 1)) for logprob in sample.logprobs}
            mixed += len(made_by) > 1
            assert sample.version_start <= min(made_by) and max(made_by) <= sample.version_end
            written = bytes(sample.completion_ids[:-1]).decode()
            assert sample.completion_ids[-1] == 0 and written.count("\n") <= 5, "one proof, nothing twice"
    assert mixed, "some were begun with old weights and ended with new ones"


class Tap(threading.Thread):
    """Copies every group that is ever in the Redis stream."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(daemon=True)
        self.server, self.groups, self.stop = server, {}, threading.Event()

    def run(self) -> None:
        client = redis.Redis(port=self.server.port, password="secret")
        while not self.stop.is_set():
            with contextlib.suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
                for key in client.scan_iter("qednano:*:groups"):
                    for identity, fields in client.xrange(key):
                        self.groups.setdefault(int(identity.split(b"-")[0]), decode(fields[b"group"], "redis"))
            time.sleep(0.01)


@pytest.fixture
def redis_server(tmp_path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


def test_each_sample_is_trained_once_though_everything_is_killed(tmp_path, model_folder, dataset, redis_server):
    run_dir, log = tmp_path / "run", tmp_path / "stand-in.log"
    secret = {"name": "redis", "key": "password"}
    asked = spec(model_folder, stream={"redis": {"url": redis_server.url, "password": secret}})
    inputs = {"model": str(model_folder), "dataset": str(dataset)}
    env = stand_in(log, tokens_per_second=150) | {"REDIS_PASSWORD": "secret"}
    tap = Tap(redis_server)
    tap.start()

    def task(module: str, role: str, attempt: int) -> subprocess.Popen:
        process, *_ = start(run_dir, module, "RLRun", asked, inputs, role, index=attempt, more=env | {"QED_INDEX": "0"})
        stack.callback(end, process)
        return process

    def reached(version: int) -> bool:
        return weights.latest_version(run_dir) >= version

    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serve(run_dir, "RLRun", asked, inputs, "rollout", index, env)) for index in (0, 1)
        ]
        trainer, actor = task("rl_trainer", "trainer", 1), task("rl_actor", "actor", 1)
        until(lambda: reached(1), trainer, actor)
        servers[0].process.kill()
        until(lambda: reached(2), trainer, actor)
        end(actor)
        actor = task("rl_actor", "actor", 2)
        redis_server.kill()
        time.sleep(0.3)
        redis_server.start()
        until(lambda: reached(5), trainer, actor)
        end(trainer)
        trainer = task("rl_trainer", "trainer", 2)
        until(lambda: trainer.poll() is not None, seconds=120)
        assert trainer.returncode == 0, (run_dir / "rl_trainer-2.log").read_text()[-2000:]
        assert actor.wait(30) == 0
    tap.stop.set()
    tap.join()
    published = [tap.groups[number] for number in sorted(tap.groups)]
    assert len({group.id for group in published}) == len(published) >= 16, "no group is there twice"

    # The same groups through a trainer that nothing happens to give the same weights, bit for bit.
    quiet = tmp_path / "quiet"
    _publish(quiet, published)
    process, *_ = start(quiet, "rl_trainer", "RLRun", spec(model_folder), inputs, "trainer")
    assert process.wait(120) == 0
    one, two = (load_file(folder / "artifact" / "model" / "model.safetensors") for folder in (run_dir, quiet))
    assert all(torch.equal(one[name], two[name]) for name in one)


def _publish(run_dir: Path, groups: list[Group]) -> None:
    stream = FileStream(run_dir)
    for group in groups:
        stream.publish(group)
