"""The SFT job as a real process: killed, stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qednano.artifacts import verify
from qednano.training.engine import EngineConfig, TrainingEngine
from qednano.training.examples import DataOrder, documents, hold_out, read_pairs, tokenise
from qednano.training.model import load_policy, load_tokenizer
from qednano.training.optim import OptimizerConfig
from qednano.training.packing import collate
from tests.training.conftest import SIZES
from tests.training.engine_steps import nll

STEPS = 60


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
                **({"maxSteps": steps} if steps else {"epochs": 1}),
                "learningRate": "3e-3", "batchTokens": 1500, "sequenceLength": 128, "threads": 1,
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


def kept(run_dir: Path) -> dict[int, float | None]:
    """Steps of the checkpoints that are there, with their scores."""
    found = (run_dir / "checkpoints").glob("step-*/state.json")
    return {int(p.parent.name.removeprefix("step-")): json.loads(p.read_text())["score"] for p in found}


def test_stopped_again_and_again_while_it_saves_and_measures_it_keeps_the_same_best(
    start_job, last_words, split, model_folder, tmp_path
):
    """A checkpoint and a measurement each step, dropout in the adapters: the stop falls into one of them."""
    whole, broken, rng = tmp_path / "whole", tmp_path / "broken", random.Random(1)
    wanted = config(split, steps=40, uri=str(model_folder))
    wanted["spec"] |= {
        "validation": {"holdOut": 40, "everySteps": 1},
        "checkpoint": {"everySteps": 1, "keepLast": 2, "keepBest": 2},
    }
    wanted["spec"]["trainer"] |= {"lora": {"rank": 4, "dropout": "0.1"}, "learningRate": "3e-2"}
    assert start_job("qednano_jobs.sft", whole, wanted).wait() == 0
    for attempt in range(1, 4):
        before, process = newest_step(broken), start_job("qednano_jobs.sft", broken, wanted)
        if attempt == 2:  # before its first step: that is given up, and nothing has to be saved
            while not (broken / "attempts" / f"{attempt:06d}.json").exists():
                time.sleep(0.01)
        else:
            wait_for_step(process, broken, before + 2)
            time.sleep(rng.random() / 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75
        assert f"after step {newest_step(broken)} of 40" in last_words()["message"]
        assert (newest_step(broken) == before) == (attempt == 2)
    assert start_job("qednano_jobs.sft", broken, wanted).wait() == 0
    weights = [load_file(run / "artifact" / "model" / "model.safetensors") for run in (whole, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert kept(whole) == kept(broken) and None not in kept(whole).values()
    assert [verify(run / "artifact").metrics["validationLoss"] for run in (whole, broken)] == [-kept(whole)[40]] * 2


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def kill_tree(process) -> None:
    """SIGKILL to torchrun and its ranks, as a lost node would have it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def test_two_ranks_killed_while_they_write_resume_bit_for_bit_and_train_what_one_would(
    start_job, last_words, split, tmp_path
):
    """ZeRO-2, a checkpoint every other step: the kill falls into a write as likely as not, a stop into a step."""
    steps, whole, broken = 8, tmp_path / "whole", tmp_path / "broken"
    wanted = config(split, steps)
    wanted["spec"]["trainer"] |= {"zeroStage": 2, "processes": 2}
    wanted["spec"]["checkpoint"] = {"everySteps": 2, "keepLast": 2}
    assert start_job("qednano_jobs.sft", whole, wanted, TORCHRUN).wait() == 0
    process = start_job("qednano_jobs.sft", broken, wanted, TORCHRUN)
    wait_for_step(process, broken, 2)
    kill_tree(process)
    assert not (broken / "artifact").exists() and newest_step(broken) >= 2
    saved, process = newest_step(broken), start_job("qednano_jobs.sft", broken, wanted, TORCHRUN)
    while not (broken / "attempts" / "000002.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # torchrun tells both ranks, which agree between two micro-batches
    assert process.wait() != 0 and last_words()["reason"] == "Stopped" and newest_step(broken) == saved
    assert start_job("qednano_jobs.sft", broken, wanted, TORCHRUN).wait() == 0
    weights = [load_file(run / "artifact" / "model" / "model.safetensors") for run in (whole, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not list((broken / "checkpoints").glob(".*"))
    newest = broken / "checkpoints" / f"step-{steps:08d}"
    assert len(list(newest.glob("engine-*.safetensors"))) == 2

    examples = tokenise(read_pairs(split), load_tokenizer(whole / "initial"), 128).items
    order, seen = DataOrder([len(example.tokens) for example in examples], 1500, seed=7), 0
    engine = TrainingEngine(
        load_policy(whole / "initial", dtype=torch.float32),
        OptimizerConfig(learning_rate=3e-3, total_steps=steps, warmup_steps=5),
        EngineConfig(),
    )
    for _ in range(steps):
        batch = order.batch(seen)
        seen += len(batch)
        engine.train_step([collate(documents([examples[index] for index in batch]))], nll)
    for name, weight in engine.weights().items():
        torch.testing.assert_close(weights[0][name], weight, rtol=0, atol=1e-3)

    # One rank takes up what two wrote, and has nothing left to do but the artifact: the same model to the last bit.
    shutil.rmtree(broken / "artifact")
    wanted["spec"]["trainer"] |= {"zeroStage": 0, "processes": 1}
    assert start_job("qednano_jobs.sft", broken, wanted).wait() == 0
    again = load_file(broken / "artifact" / "model" / "model.safetensors")
    assert all(torch.equal(weights[0][name], again[name]) for name in again)


def test_a_mixture_for_one_epoch_validated_with_the_best_checkpoint_kept_and_exported(start_job, split, tmp_path):
    from transformers import AutoModelForCausalLM

    run, wanted = tmp_path / "run", config(split, steps=0)
    wanted["spec"] |= {
        "mixture": [{"dataset": {"uri": str(split)}, "weight": "0.5"}],
        "validation": {"holdOut": 20, "everySteps": 4},
        "checkpoint": {"everySteps": 5, "keepLast": 2, "keepBest": 1, "export": True},
    }
    wanted["spec"]["trainer"] |= {"batchTokens": 4000}
    wanted["inputs"]["mixture/0/dataset"] = {"uri": str(split)}
    assert start_job("qednano_jobs.sft", run, wanted).wait() == 0

    metrics = verify(run / "artifact").metrics
    examples = 360 + 360  # 180 problems with two proofs in each source, without those held out
    assert metrics["proofs"] == examples and metrics["seenProofs"] == 360 + 180
    taught, held = hold_out(read_pairs(split), 20, seed=7)
    once = tokenise(taught, load_tokenizer(run / "initial"), 128).tokens
    assert metrics["tokensPerEpoch"] == pytest.approx(1.5 * once, abs=1)  # of the second source an epoch shows half
    assert metrics["validationLoss"] > 0 and metrics["truncatedProofs"] == 0 and metrics["lengthMax"] > 30
    steps = int(metrics["steps"])
    scores = kept(run)
    assert scores.keys() == {5, steps} and scores[steps] == -metrics["validationLoss"]
    assert {p.name for p in (run / "exports").iterdir()} == {f"step-{step:06d}" for step in scores}

    # The export is an ordinary model: transformers computes the loss with it that the trainer scored it by.
    folder = run / "exports" / "step-000005" / "model"
    verify(folder.parent)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = load_tokenizer(folder)
    total = count = 0.0
    for example in tokenise(held, tokenizer, 128).items:
        with torch.no_grad():
            logits = torch.log_softmax(model(input_ids=torch.tensor([list(example.tokens)])).logits[0], -1)
        for place in range(example.prompt_length, len(example.tokens)):
            total, count = total - float(logits[place - 1, example.tokens[place]]), count + 1
    assert total / count == pytest.approx(-scores[5], abs=1e-4)

    # Killed between its last checkpoint and the export of it, with halves of an export and of the artifact left behind.
    for folder in (run / "artifact", run / "exports" / f"step-{steps:06d}"):
        shutil.rmtree(folder)
    halves = [run / "exports" / ".tmp-step-000009-abc", run / ".tmp-artifact-abc"]
    for half in halves:
        half.mkdir()
    assert start_job("qednano_jobs.sft", run, wanted).wait() == 0
    verify(run / "exports" / f"step-{steps:06d}")
    assert verify(run / "artifact").metrics == metrics and not any(half.exists() for half in halves)


def test_adapters_leave_a_merged_model_the_same_each_time(start_job, split, model_folder, tmp_path):
    wanted = config(split, steps=5, uri=str(model_folder))
    wanted["spec"]["trainer"] |= {"lora": {"rank": 4, "dropout": "0.1"}, "activationCheckpointing": "Full"}
    for run in ("one", "two"):
        assert start_job("qednano_jobs.sft", tmp_path / run, wanted).wait() == 0
    made, again = (load_file(tmp_path / run / "artifact" / "model" / "model.safetensors") for run in ("one", "two"))
    start = load_file(model_folder / "model.safetensors")
    assert made.keys() == start.keys()
    assert all(torch.equal(made[name], again[name]) for name in made)  # dropout draws by the run's seed
    changed = {name for name, weight in made.items() if not torch.equal(weight, start[name])}
    assert changed == {name for name in start if "proj.weight" in name}


def test_steps_that_are_never_finite_end_the_run_with_the_batch_to_look_at(
    start_job, last_words, split, model_folder, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    wanted = config(split, uri=str(broken))
    wanted["spec"]["trainer"] |= {"maxSkippedSteps": 2}
    assert start_job("qednano_jobs.sft", tmp_path / "run", wanted).wait() == 76
    words = last_words()
    assert words["reason"] == "NumericGuard" and "3 steps in a row, up to step 3" in words["message"]
    path = tmp_path / "run" / "anomalies" / "step-000003-rank-00000.json"
    assert str(path) in words["message"]
    first = json.loads(path.read_text())["microBatches"][0]
    assert first["loss"] == "nan" and "Prove E" in first["documents"][0]["text"]


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
