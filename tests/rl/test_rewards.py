"""Reward shaping against the formulas, worked out by hand."""

from __future__ import annotations

import pytest

from qednano.api.rlrun import Overlong
from qednano.rl.rewards import RewardShaping, shaped_reward

SOFT = RewardShaping(Overlong.SOFT_PENALTY, limit=100, buffer=20, penalty=0.5)


def test_without_options_the_reward_is_the_score_in_sevenths():
    assert [shaped_reward(score, 50, True, RewardShaping()) for score in (0, 3.5, 7)] == [0, 0.5, 1]


@pytest.mark.parametrize(("score", "expected"), [(0, 0), (0.5, 0.5), (1, 1), (3, 1), (5, 1), (6, 6), (7, 7)])
def test_half_proofs_are_flattened_to_one_point(score, expected):
    assert shaped_reward(score, 50, False, RewardShaping(flatten_partial=True)) == pytest.approx(expected / 7)


def test_length_is_discounted_per_token():
    assert shaped_reward(7, 10, False, RewardShaping(discount=0.99)) == pytest.approx(0.99**10)


@pytest.mark.parametrize(("tokens", "expected"), [(0, 1), (80, 1), (85, 0.875), (90, 0.75), (100, 0.5)])
def test_the_soft_penalty_grows_linearly_over_the_buffer(tokens, expected):
    assert shaped_reward(7, tokens, tokens == 100, SOFT) == pytest.approx(expected)


def test_the_soft_penalty_also_lowers_a_reward_of_nothing():
    assert shaped_reward(0, 100, True, SOFT) == pytest.approx(-0.5)


def test_flattening_comes_before_the_discount_and_the_discount_before_the_penalty():
    shaping = RewardShaping(Overlong.SOFT_PENALTY, 100, 20, 0.5, discount=0.99, flatten_partial=True)
    assert shaped_reward(4, 90, False, shaping) == pytest.approx(1 / 7 * 0.99**90 - 0.25)


def test_the_penalty_for_being_cut_off_takes_all():
    shaping = RewardShaping(Overlong.PENALTY, limit=100)
    assert (shaped_reward(7, 100, True, shaping), shaped_reward(7, 100, False, shaping)) == (0, 1)
