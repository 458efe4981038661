"""The SFT job as a real process: killed, stopped, resumed, refused."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qednano.artifacts import verify
from qednano.training.engine import EngineConfig, TrainingEngine
from qednano.training.examples import DataOrder, documents, read_pairs, tokenise
from qednano.training.model import load_policy, load_tokenizer
from qednano.training.optim import OptimizerConfig
from qednano.training.packing import collate
from tests.training.conftest import SIZES
from tests.training.engine_steps import nll

STEPS = 80


def config(split: Path, steps: int = STEPS, **model: Any) -> dict[str, Any]:
    camel = {"hiddenSize": 32, "layers": 2, "heads": 2, "kvHeads": 1, "mlpSize": 64, "maxLength": SIZES["max_length"]}
    return {
        "apiVersion": "qednano.dev/v1alpha1",
        "kind": "SFTRun",
        "name": "tiny",
        "spec": {
            "model": model or {"init": camel},
            "dataset": {"uri": str(split)},
            "trainer": {
                "maxSteps": steps, "learningRate": "3e-3", "batchTokens": 1500, "sequenceLength": 128, "threads": 1,
                "microBatchTokens": 512, "precision": "fp32", "warmupSteps": 5,
            },
            "checkpoint": {"everySteps": 10, "keepLast": 2},
            "seed": 7,
        },
        "inputs": {"dataset": {"uri": str(split)}} | ({"model": {"uri": model["uri"]}} if model else {}),
    }  # fmt: skip


def newest_step(run_dir: Path) -> int:
    found = [p.parent.name for p in run_dir.glob("checkpoints/step-*/manifest.json")]
    return max((int(name.removeprefix("step-")) for name in found), default=0)


def wait_for_step(process, run_dir: Path, step: int) -> None:
    while newest_step(run_dir) < step:
        assert process.poll() is None, f"the job ended with {process.returncode} before step {step}"
        time.sleep(0.01)


def test_killed_and_stopped_and_resumed_is_the_same_as_never_interrupted_bit_for_bit(
    start_job, last_words, split, tmp_path
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start_job("qednano_jobs.sft", whole, config(split)).wait() == 0
    assert last_words()["outcome"] == "Succeeded"

    process = start_job("qednano_jobs.sft", broken, config(split))
    wait_for_step(process, broken, 20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "artifact").exists()

    process = start_job("qednano_jobs.sft", broken, config(split))
    wait_for_step(process, broken, newest_step(broken) + 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    words = last_words()
    assert (words["outcome"], words["reason"]) == ("Stopped", "Stopped")
    stopped_at = newest_step(broken)
    assert f"after step {stopped_at} of {STEPS}" in words["message"] and stopped_at < STEPS

    assert start_job("qednano_jobs.sft", broken, config(split)).wait() == 0
    weights = [load_file(run / "artifact" / "model" / "model.safetensors") for run in (whole, broken)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    manifest = verify(whole / "artifact")
    assert manifest.digest == verify(broken / "artifact").digest and manifest.metrics["loss"] < 4.0
    initial = load_file(whole / "initial" / "model.safetensors")
    assert initial.keys() == weights[0].keys() and not torch.equal(
        *(w["model.norm.weight"] for w in (initial, weights[0]))
    )
    assert len(list((whole / "checkpoints").iterdir())) == 2


def test_two_processes_train_the_model_that_one_would(start_job, split, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    wanted, run_dir = config(split, steps=5), tmp_path / "run"
    assert start_job("qednano_jobs.sft", run_dir, wanted, launcher).wait() == 0

    examples = tokenise(read_pairs(split), load_tokenizer(run_dir / "initial"), 128).items
    order, seen = DataOrder([len(example.tokens) for example in examples], 1500, seed=7), 0
    engine = TrainingEngine(
        load_policy(run_dir / "initial", dtype=torch.float32),
        OptimizerConfig(learning_rate=3e-3, total_steps=5, warmup_steps=5),
        EngineConfig(),
    )
    for _ in range(5):
        batch = order.batch(seen)
        seen += len(batch)
        engine.train_step([collate(documents([examples[index] for index in batch]))], nll)
    found = load_file(run_dir / "artifact" / "model" / "model.safetensors")
    for name, weight in engine.weights().items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("broken", "code", "says"),
    [("model", 78, "is not a model: it lacks config.json"), ("dataset", 65, "none.parquet")],
)
def test_what_is_missing_is_named_in_the_last_words(
    start_job, last_words, split, model_folder, tmp_path, broken, code, says
):
    empty = tmp_path / "empty"
    empty.mkdir()
    wanted = config(split, uri=str(empty if broken == "model" else model_folder))
    if broken == "dataset":
        wanted["inputs"]["dataset"]["uri"] = str(tmp_path / "none.parquet")
    assert start_job("qednano_jobs.sft", tmp_path / "run", wanted).wait() == code
    assert says in last_words()["message"] and not (tmp_path / "run" / "artifact").exists()
