"""The course of the learning rate, who decays, and the guard against numbers that aren't finite."""

from __future__ import annotations

import math

import pytest
import torch

from qednano.training.optim import GuardedAdamW, OptimizerConfig, learning_rate, parameter_groups


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_schedules(schedule, middle):
    config = OptimizerConfig(learning_rate=2e-3, total_steps=110, schedule=schedule, warmup_steps=10)
    assert learning_rate(config, 0) == pytest.approx(2e-4)
    assert learning_rate(config, 9) == pytest.approx(2e-3)
    assert learning_rate(config, 60) == pytest.approx(middle * 2e-3)
    assert learning_rate(config, 110) == pytest.approx(2e-3 if schedule == "constant" else 0.0)


def test_cosine_is_a_cosine():
    config = OptimizerConfig(learning_rate=1.0, total_steps=100)
    assert learning_rate(config, 25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_norms_and_biases_do_not_decay():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, plain = parameter_groups(module.named_parameters(), 0.1)
    assert decayed["weight_decay"] == 0.1 and [p.dim() for p in decayed["params"]] == [2]
    assert plain["weight_decay"] == 0.0 and [p.dim() for p in plain["params"]] == [1, 1, 1]


def test_the_guard_equals_adamw_on_finite_gradients_and_clips():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.arange(6.0)) for _ in range(2))
    guarded, plain = GuardedAdamW([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
    guarded.max_norm = 1.0
    for _ in range(3):
        grad = torch.randn(6)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        norm = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        guarded.step()
        plain.step()
        assert guarded.norm == pytest.approx(float(norm), rel=1e-5)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_guard_refuses_a_step_that_is_not_finite(bad):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = GuardedAdamW([parameter], lr=0.1)
    parameter.grad = torch.tensor([1.0, bad, 1.0])
    optimizer.step()
    assert optimizer.refused and torch.equal(parameter, torch.ones(3)) and not optimizer.state
