"""The server role with a real vLLM and the tiny model: one server for the module, since a start takes a while."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from qednano.artifacts import verify
from qednano.llm.chat import ChatParams
from qednano.llm.client import LlmClient, RequestRefused, SamplingParams
from qednano.llm.connect import served_model
from qednano.rl import weights
from qednano.rl.pool import Pool
from qednano.rl.stream import FileStream
from tests.llm.server import RunningServer, post, serve, start

pytestmark = pytest.mark.vllm

SPEC = {
    "model": {"uri": "unused"},
    "dataset": {"uri": "unused"},
    "grader": {"checker": {"name": "tiny-divisibility"}},
    "algorithm": {"maxSteps": 9, "groupSize": 4, "problemsPerStep": 4, "dropZeroVariance": False},
    "sampling": {"maxTokens": 100},
    "rollout": {"maxModelLength": 256, "maxConcurrent": 128, "threads": 1},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Three models of one shape with different weights, and one of another shape."""
    from qednano.tiny.model import init

    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "one", "two")):
        init(root / name, layers=2, hidden_size=64, heads=2, kv_heads=1, mlp_size=128, seed=seed)
    init(root / "wider", layers=2, hidden_size=128, heads=4, kv_heads=1, mlp_size=128)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    with serve(run_dir, "RLRun", SPEC, {"model": str(models["base"])}, "rollout") as running:
        running.wait(running.health, what="ready server")
        yield running


def publish_weights(server: RunningServer, version: int, model: Path) -> None:
    weights.publish(server.run_dir, version, lambda folder: shutil.copytree(model, folder, dirs_exist_ok=True))


def prompt() -> list[int]:
    from qednano.tiny.tokenizer import build

    text = "n = 5k + 3, x = 5l + 2, E = 3n + 2x + 1. Prove E ≡ 4 (mod 5)."
    return build().apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]


def reference_logprobs(model: Path, ids: list[int], completion: list[int], temperature: float, top_p: float):
    """log-probs of `completion` under the sampling distribution, from a plain transformers forward."""
    import torch
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = policy(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1]
    logits = logits / temperature
    probabilities, order = logits.softmax(-1).sort(descending=True)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    logits = logits.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -math.inf)
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


async def complete(server: RunningServer, n: int = 1, **sampling):
    async with LlmClient(server.url) as client:
        return await client.complete(prompt(), SamplingParams(**({"max_tokens": 40} | sampling)), n=n)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
async def test_logprobs_are_those_of_the_distribution_sampled_from(server, models, temperature, top_p):
    version = server.health()["version"]
    assert version == 0
    batch = await complete(server, n=4, temperature=temperature, top_p=top_p)
    assert (batch.version_start, batch.version_end) == (0, 0)
    for choice in batch.choices:
        expected = reference_logprobs(models["base"], prompt(), choice.token_ids, temperature, top_p)
        assert choice.logprobs == pytest.approx(expected, abs=2e-4)
    assert len({tuple(choice.token_ids) for choice in batch.choices}) > 1


async def test_the_end_token_is_part_of_the_completion(server):
    from qednano.tiny.tokenizer import build

    end = build().eos_token_id
    batches = [await complete(server, n=64, max_tokens=200) for _ in range(3)]
    finished = [c for batch in batches for c in batch.choices if c.finish_reason == "stop"]
    assert finished, "an untrained model ends sometimes in 192 samples of 200 tokens"
    for choice in finished:
        assert choice.token_ids[-1] == end and len(choice.logprobs) == len(choice.token_ids)
        assert "<|end|>" not in choice.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/collective_rpc"), ("POST", "/pause"), ("POST", "/v1/../pause"), ("POST", "/v1/%2e%2e/pause"),
     ("POST", "/update_weights"), ("POST", "/qednano/load")],
)  # fmt: skip
def test_control_routes_are_out_of_reach(server, method, path):
    assert post(server.url + path, {"method": "reload_weights", "uri": "/tmp"})[0] in (404, 405)


async def test_a_request_that_can_never_work_is_refused_with_the_servers_words(server):
    async with LlmClient(server.url) as client:
        with pytest.raises(RequestRefused, match="256"):
            await client.complete([5] * 400, SamplingParams(max_tokens=10))


async def test_chats_go_through_the_pool_and_fit_the_schema_and_the_models_length(server):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    question = [{"role": "user", "content": "n = 5k + 3. Prove E ≡ 4 (mod 5)."}]
    async with served_model(server.run_dir, "rollout", name="tiny", max_model_length=256, max_concurrent=8) as model:
        free = await model.chat(question, ChatParams(max_tokens=1000, temperature=0.0, seed=1))
        typed = await model.chat(question, ChatParams(max_tokens=60, schema=schema, seed=1))
    assert free.prompt_tokens + free.completion_tokens <= 256 and free.cost == 0 and free.model == "tiny"
    assert typed.cut_off or isinstance(json.loads(typed.text)["ok"], bool)


async def test_weights_change_under_load_without_a_failed_request(server, models):
    async with LlmClient(server.url) as client:
        running, batches = True, []

        async def sample():
            while running:
                batches.append(await client.complete(prompt(), SamplingParams(max_tokens=150), n=4))

        workers = [asyncio.create_task(sample()) for _ in range(6)]
        for version, name in ((1, "one"), (2, "two"), (3, "base")):
            before = len(batches)
            publish_weights(server, version, models[name])
            await asyncio.to_thread(server.wait_version, version)
            while len(batches) < before + 8:
                await asyncio.sleep(0.05)
        running = False
        await asyncio.gather(*workers)
        fixed = await client.complete(prompt(), SamplingParams(max_tokens=30), n=2)
    assert {batch.version_end for batch in batches} >= {1, 2, 3}
    assert all(batch.version_start <= batch.version_end for batch in batches)
    assert any(batch.version_start < batch.version_end for batch in batches), "no request saw two versions"
    for batch in [*batches, fixed]:
        if batch.version_start != batch.version_end:
            continue
        model = models[("base", "one", "two", "base")[batch.version_end]]
        choice = batch.choices[0]
        assert choice.logprobs == pytest.approx(
            reference_logprobs(model, prompt(), choice.token_ids, 1.0, 1.0), abs=2e-4
        )


def test_the_server_is_found_in_the_pool_with_its_version(server):
    pool = Pool(server.run_dir, "rollout")
    (record,) = pool.servers()
    assert record.url == server.url and record.version == server.health()["version"]
    first = record.heartbeat
    server.wait(lambda: pool.servers()[0].heartbeat > first or None, 10, "next heartbeat")


def write_dataset(path: Path, count: int) -> None:
    from qednano.tiny.problems import generate

    rows = ({"id": problem.id, "problem": problem.text} for problem in generate(seed=1, count=count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_actor_fills_the_stream_from_this_server_and_survives_a_kill(server, models):
    dataset, stop = server.run_dir / "problems.jsonl", threading.Event()
    write_dataset(dataset, 30)
    stream, position, groups = FileStream(server.run_dir), None, []
    inputs = {"dataset": str(dataset)}
    actor, words, log = start(server.run_dir, "rl_actor", "RLRun", SPEC, inputs, "actor")
    first = server.health()["version"]  # base, whether or not tests before this one changed the weights
    for version, name in ((4, "one"), (5, "two"), (9, "base")):  # the last one is maxSteps: the actor ends
        for _ in range(4):
            taken = stream.consume(position, stop, 120)
            assert taken, log.read_text()[-2000:]
            position = taken[0]
            groups.append(taken[1])
        if version == 5:
            actor.kill()
            actor.wait()
            actor, words, log = start(server.run_dir, "rl_actor", "RLRun", SPEC, inputs, "actor")
        publish_weights(server, version, models[name])
    assert actor.wait(60) == 0, log.read_text()[-2000:]
    assert json.loads(words.read_text())["outcome"] == "Succeeded"
    assert len({group.id for group in groups}) == len(groups) == 12
    by_version = {first: "base", 4: "one", 5: "two"}
    for group in groups:
        assert len(group.samples) == 4 and group.problem_id.startswith("td-")
        sample = group.samples[0]
        if sample.version_start == sample.version_end:
            model = models[by_version[sample.version_start]]
            expected = reference_logprobs(model, sample.prompt_ids, sample.completion_ids, 1.0, 1.0)
            assert sample.logprobs == pytest.approx(expected, abs=2e-4)
    versions = {sample.version_end for group in groups for sample in group.samples}
    assert min(versions) == first and max(versions) > first, "later groups come from later weights"
    rows = [json.loads(line) for line in next((server.run_dir / "samples").glob("*.jsonl")).read_text().splitlines()]
    assert {row["outcome"] for row in rows} <= {"published", "stale"}


def test_when_vllm_dies_the_server_ends_and_says_why(server):
    """Last test of this server."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    below = Path(f"/proc/{children[0]}/task/{children[0]}/children").read_text().split()
    assert below, "the engine is a process of its own"
    os.kill(int(children[0]), signal.SIGKILL)
    assert server.process.wait(20) == 70
    words = json.loads(server.words.read_text())
    assert words["reason"] == "EngineFailed" and "SIGKILL" in words["message"]
    assert not list((server.run_dir / "pool").glob("rollout-*.json"))
    deadline = time.monotonic() + 10
    while any(_runs(int(pid)) for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if _runs(int(pid))], "the engine outlived the server"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_evaluation_server_loads_other_models_and_ends_when_asked(models, tmp_path):
    spec = {
        "model": {"uri": "unused"},
        "modelName": "new",
        "baselines": [{"name": "old", "model": {"uri": "unused"}}],
        "benchmark": {"uri": "unused"},
        "samplesPerProblem": 2,
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "sampling": {"maxTokens": 100},
        "server": {"maxModelLength": 256},
    }
    write_dataset(tmp_path / "problems.jsonl", 5)
    inputs = {"model": str(models["base"])}
    with serve(tmp_path, "EvalRun", spec, inputs, "server") as running:
        running.wait(running.health, what="ready server")
        assert post(running.url + "/qednano/load", {"uri": str(models["two"])})[0] == 200
        assert running.health()["model"] == str(models["two"])
        choice = asyncio.run(complete(running)).choices[0]
        expected = reference_logprobs(models["two"], prompt(), choice.token_ids, 1.0, 1.0)
        assert choice.logprobs == pytest.approx(expected, abs=2e-4)
        status, answer = post(running.url + "/qednano/load", {"uri": str(models["wider"])})
        assert status == 409 and "hidden_size" in answer["error"]
        status, answer = post(running.url + "/qednano/load", {"uri": "/nowhere"})
        assert status == 409 and "/nowhere" in answer["error"]

        inputs |= {"baselines/0": str(models["one"]), "benchmark": str(tmp_path / "problems.jsonl")}
        job, words, log = start(tmp_path, "evaluate", "EvalRun", spec, inputs, "evaluate")
        assert job.wait(120) == 0, log.read_text()[-2000:]
        metrics = json.loads(words.read_text())["metrics"]
        assert set(metrics) >= {"score", "score:old"}
        verify(tmp_path / "artifact")
        scores = json.loads((tmp_path / "artifact/scores.json").read_text())
        assert [(model["name"], model["samples"]) for model in scores["models"]] == [("new", 10), ("old", 10)]
        assert "<h1>test</h1>" in (tmp_path / "artifact/report.html").read_text()

        assert running.stop() == 75
        assert not list((tmp_path / "pool").glob("*.json"))
