"""The RL trainer learns from groups, uses each exactly once, and survives being killed at any point."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qednano import metrics
from qednano.api.engine import CheckpointPolicy
from qednano.artifacts import verify
from qednano.errors import DataError, Stopped
from qednano.progress import Reporter
from qednano.rl.losses import LossConfig
from qednano.rl.own_redis import Address, tell_address
from qednano.rl.stream import FileStream, Group, Sample
from qednano.rl.trainer import PolicyLoss, Reader, Trainer, TrainerConfig, _policy_metrics, step_documents
from qednano.rl.weights import latest
from qednano.training.checkpoint import Checkpoints
from qednano.training.model import load_policy
from qednano.training.packing import Document, collate
from qednano.training.session import Session
from tests.training.engine_steps import variant_engine

CONFIG = TrainerConfig(
    loss=LossConfig(),
    advantage="MeanCentred",
    aggregation="Constant",
    groups_per_step=2,
    group_size=2,
    max_steps=6,
    max_staleness=2,
    sequence_length=64,
)


def group(name: str, rewards: list[float], version: int = 0, length: int = 3) -> Group:
    samples = [
        Sample([4, 5], [6 + i] * length, [-1.0] * length, r, version, version, "stop") for i, r in enumerate(rewards)
    ]
    return Group(name, f"problem-{name}", samples)


# -- what a step is made of ------------------------------------------------------------------------------------------


def test_documents_carry_behaviour_advantage_and_the_constant_normaliser():
    first, second = step_documents([group("a", [1.0, 0.5])], CONFIG)
    assert (list(first.tokens), list(second.tokens)) == ([4, 5, 6, 6, 6], [4, 5, 7, 7, 7])
    assert first.weights == [0, 0, 0.25, 0.25, 0.25]  # 1 / (groups_per_step * group_size), also when some are missing
    assert first.fields["behaviour"] == [0, 0, -1, -1, -1]
    assert first.fields["advantage"] == [0.25] * 5 and second.fields["advantage"] == [-0.25] * 5


def test_samples_without_advantage_cost_nothing_unless_entropy_counts():
    same = [group("a", [0.5, 0.5]), group("b", [0.0, 1.0])]
    assert [d.index for d in step_documents(same, CONFIG)] == [2, 3]
    bonus = TrainerConfig(**{**vars(CONFIG), "loss": LossConfig(entropy_bonus=0.1)})
    assert [d.index for d in step_documents(same, bonus)] == [0, 1, 2, 3]


def test_token_mean_counts_the_tokens_of_samples_that_were_left_out():
    config = TrainerConfig(**{**vars(CONFIG), "aggregation": "TokenMean"})
    docs = step_documents([group("a", [0.5, 0.5], length=5), group("b", [0.0, 1.0], length=3)], config)
    assert docs[0].weights[-1] == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (Sample([4], [5, 6], [-1.0], 1.0, 0, 0, "stop"), "2 completion tokens and 1 log-probs"),
        (Sample([], [5], [-1.0], 1.0, 0, 0, "stop"), "0 prompt tokens"),
        (Sample([4], [5] * 64, [-1.0] * 64, 1.0, 0, 0, "stop"), "65 tokens, more than spec.trainer.sequenceLength"),
    ],
)
def test_a_malformed_sample_is_named(sample, says):
    with pytest.raises(DataError, match=f"group bad: .*{says}"):
        step_documents([Group("bad", "p", [sample, sample])], CONFIG)


# -- reading the stream ----------------------------------------------------------------------------------------------


def test_groups_come_in_order_and_those_too_stale_are_passed_over_and_counted(tmp_path):
    stream = FileStream(tmp_path)
    for name, version in (("a", 3), ("b", 5), ("c", 2), ("d", 4)):
        stream.publish(group(name, [0.0, 1.0], version))
    reader = Reader(stream, threading.Event())
    intake = reader.gather(2, step=6, max_staleness=2)
    assert [g.id for g in intake.groups] == ["b", "d"] and intake.stale == 2
    assert reader.position == intake.position == stream.last_published()


def test_weights_newer_than_a_resumed_trainer_are_not_stale(tmp_path):
    stream = FileStream(tmp_path)
    stream.publish(group("a", [0.0, 1.0], version=9))
    assert Reader(stream, threading.Event()).gather(1, step=4, max_staleness=0).stale == 0


def test_patience_ends_without_losing_what_was_read(tmp_path):
    stream = FileStream(tmp_path)
    reader = Reader(stream, threading.Event())
    stream.publish(group("a", [0.0, 1.0]))
    assert reader.gather(2, 0, 2, patience=0.05) is None and reader.position is None
    stream.publish(group("b", [0.0, 1.0]))
    assert [g.id for g in reader.gather(2, 0, 2).groups] == ["a", "b"]


def test_a_stop_ends_the_wait(tmp_path):
    stop = threading.Event()
    stop.set()
    assert Reader(FileStream(tmp_path), stop).gather(1, 0, 2) is None


def test_a_step_in_which_nothing_could_move_the_policy_says_nothing_of_it():
    metrics.ENTROPY.set(1.5)
    assert _policy_metrics({"count": 0.0, "ratio": 0.0, "ratio2": 0.0, "entropy": 0.0}, []) == {}
    assert metrics.ENTROPY._value.get() == 1.5, "an entropy of 0 would look like a collapse"


# -- the job ---------------------------------------------------------------------------------------------------------


def config(folder: Path, **algorithm: Any) -> dict[str, Any]:
    spec = {
        "model": {"uri": str(folder)},
        "dataset": {"uri": "/unused"},
        "algorithm": {
            "maxSteps": 6, "groupSize": 8, "problemsPerStep": 2, "maxStaleness": 100, "aggregation": "TokenMean",
            "advantage": "StdScaled", **algorithm,
        },
        "sampling": {"maxTokens": 16},
        "rollout": {"maxModelLength": 64},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "trainer": {
            "learningRate": "3e-3", "schedule": "constant", "sequenceLength": 64, "microBatchTokens": 256,
            "precision": "fp32", "threads": 1, "weightDecay": "0",
        },
        "checkpoint": {"everySteps": 2, "keepLast": 1},
    }  # fmt: skip
    return {
        "apiVersion": "qednano.dev/v1alpha1", "kind": "RLRun", "name": "tiny", "spec": spec,
        "inputs": {"model": {"uri": str(folder)}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def groups(model_folder) -> list[Group]:
    """Twelve groups of tokens 10 to 17; the reward is the share of 10 to 13. Log-probs are the model's own."""
    policy = load_policy(model_folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(12):
        samples = []
        for _ in range(8):
            ids = torch.randint(10, 18, (10,), generator=generator).tolist()
            with torch.no_grad():
                logprobs, _ = policy(collate([Document(ids, [0.0] * 4 + [1.0] * 6)]))
            reward = sum(token <= 13 for token in ids[4:]) / 6
            samples.append(Sample(ids[:4], ids[4:], logprobs.tolist(), reward, 0, 0, "stop"))
        made.append(Group(f"g{number}", f"p{number}", samples))
    return made


def publish(run_dir: Path, groups: list[Group]) -> None:
    stream = FileStream(run_dir)
    for item in groups:
        stream.publish(item)


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, f"the job ended early with {process.returncode}"
        time.sleep(0.02)


def checkpoint_at(run_dir: Path, step: int):
    return (run_dir / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists


def test_groups_are_used_exactly_once_though_the_trainer_is_killed_and_stopped(
    start_job,
    last_words,
    model_folder,
    groups,
    tmp_path,
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    publish(whole, groups)
    assert start_job("qednano_jobs.rl_trainer", whole, config(model_folder)).wait() == 0
    assert last_words()["metrics"]["steps"] == "6"
    assert latest(whole).version == 6 and verify(whole / "artifact")

    # Seven groups: step 3 is done and not in a checkpoint, and one more group is read, when it is killed.
    publish(broken, groups[:7])
    process = start_job("qednano_jobs.rl_trainer", broken, config(model_folder))
    wait_for(lambda: latest(broken) is not None and latest(broken).version == 3, process)

    def remaining() -> int:
        return len(list((broken / "stream").glob("*.json")))

    wait_for(lambda: remaining() == 3, process)  # the checkpoint of step 2 is written while training goes on
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert remaining() == 3  # four are in it and forgotten, the others are still there

    process = start_job("qednano_jobs.rl_trainer", broken, config(model_folder))
    wait_for(lambda: latest(broken).version == 3 and (broken / "attempts" / "000002.json").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75

    publish(broken, groups)  # the actor publishes again: ids already decided are not written twice
    assert start_job("qednano_jobs.rl_trainer", broken, config(model_folder)).wait() == 0
    weights = [load_file(run / "artifact" / "model" / "model.safetensors") for run in (whole, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not list((broken / "stream").glob("*.json"))


def test_a_trainer_whose_stream_is_away_saves_and_ends_when_it_is_asked_to(
    start_job, last_words, model_folder, tmp_path
):
    run_dir, asked = tmp_path / "run", config(model_folder)
    asked["spec"]["stream"] = {"redis": {}}
    tell_address(run_dir, Address("127.0.0.1", 1, "nobody is there"))
    process = start_job("qednano_jobs.rl_trainer", run_dir, asked)
    wait_for(lambda: latest(run_dir) is not None, process)
    time.sleep(1)  # it waits for the first group
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert "stopped after step 0 of 6, which is saved" in last_words()["message"]
    assert checkpoint_at(run_dir, 0)()


def test_rewarded_tokens_become_likelier(start_job, model_folder, groups, tmp_path):
    run_dir = tmp_path / "run"
    publish(run_dir, groups)
    assert start_job("qednano_jobs.rl_trainer", run_dir, config(model_folder, entropyBonus="0.001")).wait() == 0
    asked = torch.tensor([[12, 15, 11, 16]])
    odds = []
    for folder in (model_folder, latest(run_dir).folder):
        with torch.no_grad():
            p = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(asked).logits[0].softmax(-1).mean(0)
        odds.append(float(p[10:14].sum() / p[14:18].sum()))
    assert odds[1] > 1.2 * odds[0]


def trainer_in(run_dir: Path, model_folder: Path, stop: threading.Event) -> Trainer:
    """Three steps of two groups each, in micro-batches of a few samples."""
    context = SimpleNamespace(
        role="trainer", run_dir=run_dir, reporter=Reporter(), stopping=stop, spec=SimpleNamespace(evaluations=[])
    )
    session = Session(
        context,
        variant_engine(model_folder, "0:fp32"),
        Checkpoints(run_dir),
        model_folder,
        SimpleNamespace(sequence_length=64, micro_batch_tokens=64),
        CheckpointPolicy(every_steps=100),
        total_steps=3,
    )
    asked = {**vars(CONFIG), "group_size": 8, "max_steps": 3, "loss": LossConfig(entropy_bonus=0.01)}
    return Trainer(session, FileStream(run_dir), TrainerConfig(**asked))


def test_a_step_that_is_given_up_half_way_is_made_again_with_the_same_groups(
    model_folder, groups, tmp_path, monkeypatch
):
    monkeypatch.setattr("qednano.training.engine.ASK_SECONDS", 0.0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for run_dir in (whole, broken):
        publish(run_dir, groups[:6])
    undisturbed = trainer_in(whole, model_folder, threading.Event())
    undisturbed.run()
    undisturbed.session.settle()

    stop = threading.Event()
    stopped = trainer_in(broken, model_folder, stop)
    seen: list[int] = []

    class Stopping(PolicyLoss):
        """Asks for a stop in the second micro-batch of the second step."""

        def __call__(self, *given: Any) -> Any:
            seen.append(stopped.engine.step)
            if seen.count(1) == 2:
                stop.set()
            return super().__call__(*given)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="stopped after step 1 of 3, which is saved"):
        patch.setattr("qednano.rl.trainer.PolicyLoss", Stopping)
        stopped.run()
    assert seen.count(1) == 2 < seen.count(0), "it did not go through the rest of the step"
    assert latest(broken).version == 1
    assert len(list((broken / "stream").glob("*.json"))) == 4, "its groups are there yet, those of the first step gone"

    again = trainer_in(broken, model_folder, threading.Event())
    again.run()
    again.session.settle()
    expected, found = (trainer.engine.weights() for trainer in (undisturbed, again))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not list((broken / "stream").glob("*.json"))


def test_a_strong_kl_term_holds_the_policy_to_the_model_that_it_started_from(start_job, model_folder, groups, tmp_path):
    moved = []
    for number, coefficient in enumerate(("0", "10")):
        run_dir = tmp_path / str(number)
        publish(run_dir, groups)
        asked = config(model_folder, klCoefficient=coefficient, klEstimator="k3")
        assert start_job("qednano_jobs.rl_trainer", run_dir, asked).wait() == 0
        asked = torch.tensor([[12, 15, 11, 16]])
        found = []
        for folder in (model_folder, latest(run_dir).folder):
            with torch.no_grad():
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
                found.append(model(asked).logits[0].log_softmax(-1))
        moved.append(float((found[0].exp() * (found[0] - found[1])).sum(-1).mean()))
    assert moved[1] < 0.5 * moved[0]
