"""The server role around a stand-in for vLLM: what it does when clients go, loads fail and weights change."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from qednano.llm.completions import SamplingParams
from qednano.rl import weights
from qednano.rl.pool import Pool
from qednano.rl.rollouts import Rollouts
from tests.llm.server import RunningServer, post, serve, stand_in

PROBLEM = "n = 5k + 2, x = 5l + 2, E = 4n + 5x + 7. Prove 5 | E."
RL = {
    "model": {"uri": "unused"},
    "dataset": {"uri": "unused"},
    "grader": {"checker": {"name": "tiny-divisibility"}},
    "algorithm": {"maxSteps": 9, "groupSize": 4, "problemsPerStep": 4},
    "sampling": {"maxTokens": 100},
    "rollout": {"maxModelLength": 256, "maxConcurrent": 128, "resources": {"gpus": 1}},
}
EVALUATION = {
    "model": {"uri": "unused"},
    "benchmark": {"uri": "unused"},
    "sampling": {"maxTokens": 100},
    "grader": {"checker": {"name": "tiny-divisibility"}},
    "server": {"maxModelLength": 256, "resources": {"gpus": 1}},
}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def server(tmp_path, model) -> Iterator[RunningServer]:
    env = stand_in(tmp_path / "log", tokens_per_second=100)
    with serve(tmp_path / "run", "RLRun", RL, {"model": str(model)}, "rollout", more=env) as running:
        running.wait(running.health, what="ready server")
        yield running


def events(folder: Path) -> list[str]:
    path = folder / "log"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def body(**more: object) -> dict[str, object]:
    return {"model": "policy", "prompt": list(f"{PROBLEM}\x01".encode()), "max_tokens": 90, **more}


@pytest.mark.parametrize("stream", [False, True])
async def test_when_a_client_goes_away_its_generation_ends(server, tmp_path, stream):
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(f"{server.url}/v1/completions", json=body(stream=stream)))
        await asyncio.to_thread(
            server.wait, lambda: events(tmp_path).count("complete") == 2 or None
        )  # 1: its own probe
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.to_thread(server.wait, lambda: ("aborted" in events(tmp_path)) or None, 10)
    assert events(tmp_path).count("answered") == 1


async def test_a_streamed_draw_knows_the_weights_of_all_its_tokens(server, tmp_path, model):
    async with Rollouts(Pool(server.run_dir, "rollout")) as rollouts:
        drawing = asyncio.create_task(
            rollouts.complete(list(f"{PROBLEM}\x01".encode()), SamplingParams(max_tokens=90, seed=3), 4)
        )
        await asyncio.sleep(0.3)
        weights.publish(server.run_dir, 2, lambda folder: shutil.copytree(model, folder, dirs_exist_ok=True))
        batch = await drawing
    made_by = [{round(-1000 * (logprob + 1)) for logprob in choice.logprobs} for choice in batch.choices]
    assert any(versions == {0, 2} for versions in made_by), "the update came in mid-answer"
    for found, (start, end) in zip(made_by, batch.versions, strict=True):
        assert start <= min(found) and max(found) <= end, "no token is of weights outside what is said"
    assert all(choice.finish_reason == "stop" for choice in batch.choices)
    assert [choice.text for choice in batch.choices] == [bytes(c.token_ids[:-1]).decode() for c in batch.choices]


async def test_a_server_that_loads_for_long_stays_in_the_pool_with_its_requests(server, tmp_path, model):
    def write(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        (folder / "held").touch()

    def heartbeat() -> float:
        (record,) = Pool(server.run_dir, "rollout").servers()
        return record.heartbeat

    async with Rollouts(Pool(server.run_dir, "rollout")) as rollouts:
        drawing = asyncio.create_task(
            rollouts.complete(list(f"{PROBLEM}\x01".encode()), SamplingParams(max_tokens=90, seed=3), 4)
        )
        await asyncio.to_thread(server.wait, lambda: events(tmp_path).count("complete") == 2 or None)
        published = weights.publish(server.run_dir, 2, write)
        await asyncio.to_thread(server.wait, lambda: ("load" in events(tmp_path)) or None, 10)
        for _ in range(2):  # beats, while it does nothing but load
            before = heartbeat()
            await asyncio.to_thread(server.wait, lambda seen=before: heartbeat() != seen or None, 10)
        assert not drawing.done() and "resume" not in events(tmp_path)
        (published.folder / "held").unlink()
        batch = await drawing
    assert events(tmp_path).count("complete") == 2, "nothing was asked anew"
    assert [version for _, version in batch.versions] == [2] * 4


def test_a_model_that_fails_to_load_ends_the_server_with_the_reason(tmp_path, model):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "broken").touch()
    env = stand_in(tmp_path / "log")
    with serve(tmp_path / "run", "EvalRun", EVALUATION, {"model": str(model)}, "server", more=env) as running:
        running.wait(running.health, what="ready server")
        status, answer = post(running.url + "/qednano/load", {"uri": str(broken)})
        assert status == 500 and "shapes differ" in answer["error"]
        assert running.process.wait(20) == 70
        assert "shapes differ" in json.loads(running.words.read_text())["message"]
        assert "resume" not in events(tmp_path)


async def test_a_switch_of_models_is_carried_through_when_its_client_has_gone(tmp_path, model):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    env = stand_in(tmp_path / "log")
    with serve(tmp_path / "run", "EvalRun", EVALUATION, {"model": str(model)}, "server", more=env) as running:
        running.wait(running.health, what="ready server")
        async with aiohttp.ClientSession() as session:
            asking = asyncio.create_task(session.post(f"{running.url}/qednano/load", json={"uri": str(other)}))
            while "pause" not in events(tmp_path):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await asyncio.to_thread(running.wait, lambda: running.health()["model"] == str(other) or None, 10)
        assert events(tmp_path)[-1] == "resume"
