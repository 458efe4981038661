"""Metrics of an RL run as Prometheus sees them: they move, and to the right values."""

from __future__ import annotations

import math
import statistics
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from qednano import metrics
from qednano.progress import Reporter
from qednano.rl.losses import LossConfig
from qednano.rl.reasoning_cache import State
from qednano.rl.sample_log import SampleLog
from qednano.rl.stream import FileStream, Group
from qednano.rl.trainer import Trainer, TrainerConfig
from qednano.training.session import Session
from tests.rl.servers import StandIn
from tests.rl.test_actor import actor_in, run_until
from tests.rl.test_trainer import groups  # noqa: F401
from tests.training.engine_steps import variant_engine


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"qednano_{name}", labels) or 0.0


class Moved:
    """How far series have moved since it was made."""

    def __init__(self) -> None:
        self._before = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    def by(self, name: str, **labels: str) -> float:
        return value(name, **labels) - self._before.get((f"qednano_{name}", tuple(sorted(labels.items()))), 0.0)


async def test_the_actors(tmp_path):
    """Groups of rewards 0, 3/7 and 1, one sample cut off; then groups whose samples have no grade or one reward."""
    for gauge in (metrics.REWARD_MEAN, metrics.REWARD_STD, metrics.ZERO_VARIANCE, metrics.POOL_SERVERS):
        gauge.set(-1)
    moved = Moved()
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0") as server:
            actor = actor_in(tmp_path, log)
            actor.parts = replace(actor.parts, cache=FromNotes())
            server.finish_reason = "length"
            await run_until(actor, lambda: actor.outcomes["published"] >= 4 and value("rl_reward_mean") > 0)
            assert value("rl_reward_mean") == pytest.approx(10 / 21)
            assert value("rl_reward_std") == pytest.approx(statistics.pstdev([0, 3 / 7, 1]))
            assert value("rl_turn_reward_mean", cycles="2") == pytest.approx(10 / 21)
            assert (value("rl_zero_variance_ratio"), value("rl_pool_servers")) == (0, 1)
            assert value("rl_queue_groups") > 0
            again = actor_in(tmp_path / "again", log)
            server.run_dir = tmp_path / "again"
            server.finish_reason, server.proofs = "stop", ["broken", "all", "all"]
            flat_only = lambda: again.outcomes["zero-variance"] >= 2 and value("rl_zero_variance_ratio") == 1  # noqa: E731
            await run_until(again, flat_only)
    published, flat = actor.outcomes["published"], again.outcomes["zero-variance"]
    assert moved.by("rl_groups_total", outcome="published") == published
    assert moved.by("rl_groups_total", outcome="zero-variance") == flat
    assert moved.by("rl_reward_count") == 3 * published + 2 * flat, "none of a sample without a grade"
    assert moved.by("rl_reward_bucket", le="0.0") == published
    third = str(3 / 7)
    assert moved.by("rl_reward_bucket", le=third) == 2 * published
    assert moved.by("rl_generated_tokens_total") == 6 * (published + flat)
    assert moved.by("rl_response_tokens_count") == 3 * (published + flat)
    assert moved.by("rl_truncated_samples_total") == 3 * published
    assert moved.by("grader_seconds_count") >= 3 * published + 5 * flat, "the broken one is asked for three times"
    assert moved.by("grader_failures_total", reason="error") >= flat
    assert value("grader_failure_ratio") == pytest.approx(again.parts.health.failure_percent / 100) != 0


class FromNotes:
    """A reasoning cache that has made its states."""

    async def made(self, visit, row) -> None: ...

    async def state(self, visit, slot, row) -> State:
        return State("", 2, 0)

    def message(self, row, state) -> str:
        return row.problem

    def graded_text(self, state, text) -> str:
        return text

    async def close(self) -> None: ...


SHIFT, FROM_REFERENCE = 0.5, 0.3


def test_the_trainers(tmp_path, model_folder, groups):  # noqa: F811
    """Every other sample comes from a policy that gave its tokens e^0.5 times less."""
    moved = Moved()
    given = [_shifted(group) for group in groups[:2]]
    engine = variant_engine(model_folder, "0:fp32")
    stream, reporter = FileStream(tmp_path), Reporter()
    for group in given:
        stream.publish(group)
    session = Session(
        SimpleNamespace(role="trainer", run_dir=tmp_path, reporter=reporter, stopping=threading.Event()),
        engine,
        SimpleNamespace(before_publish=lambda: None, failed=lambda: False, busy=lambda: False),
        model_folder,
        SimpleNamespace(sequence_length=64, micro_batch_tokens=256),
        None,
        total_steps=6,
    )
    config = TrainerConfig(
        LossConfig(importance_cap=1.2, entropy_bonus=0.01, kl="k3", kl_weight=0.1), "MeanCentred", "Constant",
        groups_per_step=2, group_size=8, max_steps=6, max_staleness=2, sequence_length=64, served_reference=True,
    )  # fmt: skip
    trainer = Trainer(session, stream, config)
    trainer._step(trainer._next_intake())
    trainer._publish()

    ratio = math.exp(SHIFT)
    assert value("rl_clipped_share") == pytest.approx(0.5)
    assert value("rl_importance_ratio", quantile="0.01") == pytest.approx(1, abs=1e-4)
    assert value("rl_importance_ratio", quantile="0.99") == pytest.approx(ratio, rel=1e-4)
    expected = (1 + ratio) ** 2 / (2 * (1 + ratio**2))
    assert value("rl_effective_sample_ratio") == pytest.approx(expected, rel=1e-4) and expected < 0.95
    assert value("rl_behaviour_kl_nats") == pytest.approx((math.expm1(SHIFT) - SHIFT) / 2, rel=1e-3)
    assert value("rl_reference_kl_nats") == pytest.approx(math.expm1(FROM_REFERENCE) - FROM_REFERENCE, rel=1e-3)
    assert 0 < value("rl_entropy_nats") <= math.log(engine.policy.causal_lm.config.vocab_size)
    rewards = [sample.reward for group in given for sample in group.samples]
    assert value("rl_trained_reward_mean") == pytest.approx(statistics.mean(rewards))
    assert moved.by("rl_groups_total", outcome="trained") == 2
    assert moved.by("rl_staleness_steps_bucket", le="0.0") == 2
    assert moved.by("rl_trainer_busy_seconds_total") > 0 and moved.by("rl_trainer_wait_seconds_total") > 0
    assert moved.by("weight_publish_seconds_count") == 1 and value("weight_version", role="trainer") == 1
    assert 2 * 8 * 6 <= moved.by("train_tokens_total", role="trainer") <= 2 * 8 * 10
    assert value("train_memory_bytes", role="trainer") > 1e6
    assert value("train_tokens_per_second", role="trainer") > 0
    assert {"entropy", "clipped", "behaviourKl", "referenceKl", "staleness"} <= set(reporter.report().metrics)


def _shifted(group: Group) -> Group:
    samples = [
        replace(
            sample,
            logprobs=[logprob - SHIFT * (index % 2) for logprob in sample.logprobs],
            reference=[logprob + FROM_REFERENCE for logprob in sample.logprobs],
        )
        for index, sample in enumerate(group.samples)
    ]
    return Group(group.id, group.problem_id, samples)
