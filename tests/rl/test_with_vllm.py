"""A whole RL run with adapters and a KL term, all of it real: vLLM servers of policy and reference, actor, trainer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qednano.llm.client import LlmClient, SamplingParams
from qednano.rl.losses import LossConfig, kl_divergence
from qednano.rl.reference_policy import reference_policy
from qednano.rl.stream import FileStream, Group
from qednano.rl.trainer import FIELDS, REFERENCE, PolicyLoss, TrainerConfig, step_documents
from qednano.rl.weights import latest
from qednano.tiny.model import init
from qednano.tiny.problems import generate
from qednano.training.packing import collate
from tests.llm.direct_load import PROMPT, TOKENS
from tests.llm.server import serve, start
from tests.training.engine_steps import variant_engine
from tests.training.test_sft_job import config as sft_config

pytestmark = pytest.mark.vllm

STEPS, GROUPS, GROUP_SIZE = 3, 2, 4
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}


def spec(base: Path) -> dict:
    server = {"maxModelLength": 160, "maxConcurrent": 64, "threads": 1}
    return {
        "model": {"uri": str(base)},
        "dataset": {"uri": "unused"},
        "algorithm": {
            "maxSteps": STEPS, "groupSize": GROUP_SIZE, "problemsPerStep": GROUPS, "maxStaleness": STEPS,
            "dropZeroVariance": False, "klCoefficient": "0.1", "entropyBonus": "0.01",
        },
        "reference": {"model": {"uri": str(base)}, "server": server},
        "sampling": {"maxTokens": 40},
        "rollout": server,
        "actor": {"concurrentGroups": STEPS * GROUPS},
        "grader": {"entryPoint": {"name": "tests.rl.own_grader:FewDigits"}},
        "trainer": {
            "sequenceLength": 160, "microBatchTokens": 512, "precision": "fp32", "threads": 1, "learningRate": "1e-2",
            "lora": LORA,
        },
        "checkpoint": {"everySteps": 10, "export": True},
    }  # fmt: skip


def published(run_dir: Path, count: int, alive: subprocess.Popen, log: Path) -> list[Group]:
    stream, position, groups = FileStream(run_dir), None, []
    while len(groups) < count:
        taken = stream.consume(position, threading.Event(), 60)
        assert taken and alive.poll() is None, log.read_text()[-2000:]
        position = taken[0]
        groups.append(taken[1])
    return groups


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SimpleNamespace:
    """The run to its end: its folder, the groups drawn with the first weights, an answer of the last ones."""
    folder = tmp_path_factory.mktemp("lora")
    base, run_dir, dataset = folder / "base", folder / "run", folder / "problems.jsonl"
    init(base, layers=2, hidden_size=64, heads=2, kv_heads=1, mlp_size=128, seed=5)
    rows = ({"id": item.id, "problem": item.text} for item in generate(seed=1, count=50))
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = spec(base)
    inputs = {"model": str(base), "served/reference": str(base), "dataset": str(dataset)}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serve(run_dir, "RLRun", asked, inputs, role, index))
            for index, role in enumerate(("rollout", "reference"))
        ]
        for server in servers:
            server.wait(server.health, what="ready server")
        actor, _, log = start(run_dir, "rl_actor", "RLRun", asked, inputs, "actor")
        stack.callback(actor.wait)
        stack.callback(actor.terminate)
        groups = published(run_dir, STEPS * GROUPS, actor, log)
        trainer, words, log = start(run_dir, "rl_trainer", "RLRun", asked, inputs, "trainer")
        assert trainer.wait(120) == 0, log.read_text()[-3000:]
        assert actor.wait(30) == 0
        servers[0].wait_version(STEPS)
        yield SimpleNamespace(
            base=base, run_dir=run_dir, groups=groups, words=json.loads(words.read_text()), policy=servers[0].url
        )


def forward(folder: Path, ids: list[int]) -> torch.Tensor:
    """Log-probs [len(ids) - 1, vocabulary] by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def of_tokens(logprobs: torch.Tensor, ids: list[int]) -> list[float]:
    """Log-probs of the tokens behind the first one."""
    return logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


async def test_merged_adapters_reach_the_servers(run):
    found = latest(run.run_dir)
    assert found.version == STEPS and run.words["outcome"] == "Succeeded"
    prompt = run.groups[0].samples[0].prompt_ids
    async with LlmClient(run.policy) as client:
        batch = await client.complete(prompt, SamplingParams(max_tokens=30, seed=1))
    ids = [*prompt, *batch.choices[0].token_ids]
    now, before = (forward(folder, ids) for folder in (found.folder, run.base))
    assert batch.choices[0].logprobs == pytest.approx(of_tokens(now, ids)[len(prompt) - 1 :], abs=2e-4)
    assert (now - before).abs().max() > 0.1, "the adapters have learned something"


def test_tokens_of_rollouts_and_reference_are_on_the_bill(run):
    bill = json.loads((run.run_dir / "actor" / "usage.json").read_text())
    drawn = sum(len(sample.completion_ids) for group in run.groups for sample in group.samples)
    given = sum(len(s.prompt_ids) + len(s.completion_ids) for group in run.groups for s in group.samples)
    assert bill["completion_tokens"] > drawn and bill["prompt_tokens"] > given and bill["cost"] == "0"


def trainer_config(estimator: str, served: bool) -> TrainerConfig:
    return TrainerConfig(
        loss=LossConfig(kl=estimator, kl_weight=0.1),
        advantage="MeanCentred",
        aggregation="Constant",
        groups_per_step=GROUPS,
        group_size=GROUP_SIZE,
        max_steps=STEPS,
        max_staleness=STEPS,
        sequence_length=160,
        served_reference=served,
    )


def test_what_the_server_says_of_its_tokens_is_what_the_trainer_finds(run):
    """All groups were drawn with the first weights."""
    batch = collate(step_documents(run.groups, trainer_config("k1", False)), FIELDS, share=True)
    assert batch.layout.shared
    own, _ = variant_engine(run.base, "0:fp32").logprobs(batch)
    torch.testing.assert_close(batch.fields["behaviour"], own, atol=1e-3, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_a_served_reference_is_the_one_that_the_trainer_computes(run, estimator):
    """Log-probs, estimates and, after three steps, the weights themselves."""
    weights, last = [], []
    for served in (True, False):
        config = trainer_config(estimator, served)
        engine = variant_engine(run.base, "0:fp32:lora")
        below = reference_policy(SimpleNamespace(engine=engine))
        names = (*FIELDS, REFERENCE) if served else FIELDS
        for step in range(STEPS):
            documents = step_documents(run.groups[step * GROUPS : (step + 1) * GROUPS], config)
            batches = engine.micro_batches(documents, names, sequence_length=160, micro_batch_tokens=512)
            report = engine.train_step(batches, PolicyLoss(config.loss, None if served else below))
        weights.append(engine.weights())
        last.append(report.sums["referenceKl"])
        batch = collate(step_documents(run.groups, trainer_config(estimator, True)), (*FIELDS, REFERENCE))
        computed, policy = below(batch), engine.logprobs(batch)[0]
        torch.testing.assert_close(batch.fields[REFERENCE], computed, atol=2e-4, rtol=0)
        estimates = [
            kl_divergence(policy, logprobs, estimator).mean() for logprobs in (batch.fields[REFERENCE], computed)
        ]
        torch.testing.assert_close(*estimates, atol=2e-4, rtol=0)
    assert last[0] == pytest.approx(last[1], rel=1e-2) and last[0] > 0
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-3) for name in weights[0])


def test_vllm_loads_every_export_as_it_is(run, start_job, split, tmp_path):
    """Adapters merged by the trainer and by the exporter, and all weights of an SFT run, the same two ways."""
    sft = sft_config(split, steps=2)
    sft["spec"]["checkpoint"] = {"everySteps": 2, "export": True}
    sft["spec"]["trainer"]["warmupSteps"] = 0
    sft["spec"]["model"]["init"] |= {"hiddenSize": 64, "mlpSize": 128}  # vLLM has kernels for heads of 32
    assert start_job("qednano_jobs.sft", tmp_path / "sft", sft).wait() == 0
    folders = [
        place
        for folder, step in ((run.run_dir, STEPS), (tmp_path / "sft", 2))
        for place in (folder / "artifact" / "model", folder / "exports" / f"step-{step:06d}" / "model")
    ]
    command = [sys.executable, "-m", "tests.llm.direct_load", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    for folder, answer in zip(folders, answers, strict=True):
        ids = [*PROMPT, *answer["ids"]]
        expected = forward(folder, ids)
        assert answer["logprobs"] == pytest.approx(of_tokens(expected, ids)[-TOKENS:], abs=2e-4)
        assert answer["logprobs"] == pytest.approx(expected.max(-1).values[-TOKENS:].tolist(), abs=2e-4)
    assert answers[0] == answers[1] and answers[2] == answers[3], "both ways to the same model"
