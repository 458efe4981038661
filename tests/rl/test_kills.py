"""A whole RL run as real processes (only vLLM is a stand-in): servers come, go and die, and so does everything else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import redis
import torch
from safetensors.torch import load_file

from qednano.errors import Unavailable
from qednano.llm.vllm import free_port
from qednano.rl import weights
from qednano.rl.own_redis import wait_for_address
from qednano.rl.pool import Pool
from qednano.rl.stream import FileStream, Group, Sample, decode
from qednano.tiny import problems
from tests.llm.server import RunningServer, serve, stand_in, start


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


def _problems() -> list[problems.Problem]:
    """In plain ASCII: the stand-in's tokens are bytes, and it may end an answer behind any of them."""
    return list(problems.generate(seed=1, count=200, families=["linear", "quadratic"]))


@pytest.fixture
def dataset(tmp_path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = ({"id": f"p{n}", "problem": item.text} for n, item in enumerate(_problems()))
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


def kill_child(process: subprocess.Popen) -> None:
    """kill -9 of what the process has started."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)


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


def versions(sample: Sample) -> set[int]:
    """Of the weights that made its tokens: the stand-in writes them into the log-probabilities."""
    return {round(-1000 * (logprob + 1)) for logprob in sample.logprobs}


def publish_until_mixed(run_dir: Path, model: Path, groups: Consumed, actor: subprocess.Popen) -> int:
    """Publish weights until answers were begun with old ones and ended with new ones; the last version."""
    mixed = lambda: any(len(versions(s)) > 1 for group in list(groups.found) for s in group.samples)  # noqa: E731
    for version in range(3, 20):
        weights.publish(run_dir, version, lambda folder: shutil.copytree(model, folder, dirs_exist_ok=True))
        had = len(groups.found)
        until(lambda had=had: mixed() or len(groups.found) >= had + 12, actor)
        if mixed():
            return version
    raise AssertionError("no answer went on with new weights")


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
        version = publish_until_mixed(run_dir, model_folder, groups, actor)
        joiner = stack.enter_context(server(1))
        joiner.wait(joiner.health, what="late joiner")
        assert joiner.health()["version"] == version, "it is ready with the current weights only"
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
    texts = {problem.text for problem in _problems()}
    for group in groups.found:
        for sample in group.samples:
            assert bytes(sample.prompt_ids[:-1]).decode() in texts
            made_by = versions(sample)
            assert sample.version_start <= min(made_by) and max(made_by) <= sample.version_end
            written = bytes(sample.completion_ids[:-1]).decode()
            assert sample.completion_ids[-1] == 0 and written.count("\n") <= 5, "one proof, nothing twice"


class Tap(threading.Thread):
    """Copies every group that is ever in the stream of the run's own Redis."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(daemon=True)
        self.run_dir, self.groups, self.stop = run_dir, {}, threading.Event()

    def run(self) -> None:
        address = wait_for_address(self.run_dir, self.stop)
        client = redis.Redis(port=address.port, password=address.password)
        while not self.stop.is_set():
            with contextlib.suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
                for key in client.scan_iter("qednano:*:groups"):
                    for identity, fields in client.xrange(key):
                        self.groups.setdefault(int(identity.split(b"-")[0]), decode(fields[b"group"], "redis"))
            time.sleep(0.01)


SEEDS = range(int(os.environ.get("QED_KILL_SEEDS", "1")))


@pytest.mark.parametrize("seed", SEEDS)
def test_each_sample_is_trained_once_though_everything_is_killed(tmp_path, model_folder, dataset, seed):
    """kill -9 of trainer, actor, rollout server and Redis, in an order and at moments that the seed draws."""
    run_dir, log, rng = tmp_path / "run", tmp_path / "stand-in.log", random.Random(seed)
    asked = spec(model_folder, stream={"redis": {}})
    inputs = {"model": str(model_folder), "dataset": str(dataset)}
    env = stand_in(log, tokens_per_second=150)
    tap = Tap(run_dir)

    with contextlib.ExitStack() as stack:

        def task(module: str, role: str, attempt: int) -> subprocess.Popen:
            more = env | {"QED_INDEX": "0"}
            port = free_port() if module == "stream" else 0
            process, *_ = start(run_dir, module, "RLRun", asked, inputs, role, port, attempt, more)
            stack.callback(end, process)
            return process

        def server(index: int) -> subprocess.Popen:
            return stack.enter_context(serve(run_dir, "RLRun", asked, inputs, "rollout", index, env)).process

        begin = {
            "stream": lambda attempt: task("stream", "stream", attempt),
            "rollout": server,
            "trainer": lambda attempt: task("rl_trainer", "trainer", attempt),
            "actor": lambda attempt: task("rl_actor", "actor", attempt),
        }
        living = {role: start_it(1) for role, start_it in begin.items()}
        server(0)  # another one, so that answers have somewhere to go on
        tap.start()
        victims = sorted(begin)
        rng.shuffle(victims)
        for version, victim in enumerate(victims, start=1):
            until(lambda least=version: weights.latest_version(run_dir) >= least, *living.values(), seconds=120)
            time.sleep(rng.uniform(0, 0.5))  # anywhere in a step
            assert living["trainer"].poll() is None, "it was done before everything had been killed"
            if victim == "stream":
                kill_child(living[victim])  # the role ends then, and is started anew
                assert living[victim].wait(30) == Unavailable.exit_code
            else:
                end(living[victim])
            living[victim] = begin[victim](2)
        trainer, actor = living["trainer"], living["actor"]
        until(lambda: trainer.poll() is not None, seconds=120)
        assert trainer.returncode == 0, "\n".join(
            path.read_text()[-2000:] for path in sorted(run_dir.glob("rl_trainer-*.log"))
        )
        assert actor.wait(30) == 0
        assert (tmp_path / "run" / "redis" / "address.json").stat().st_mode & 0o777 == 0o600
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
