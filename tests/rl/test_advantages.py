"""Advantages against their closed forms."""

from __future__ import annotations

import math
import statistics

import pytest

from qednano.errors import DataError
from qednano.rl.advantages import advantages

GROUPS = [[1.0, 0.0, 0.0, 0.5], [0.25, 0.75], [1.0, 1.0, 1.0]]


def test_mean_centred_is_reward_minus_group_mean():
    assert advantages(GROUPS, "MeanCentred") == [[0.625, -0.375, -0.375, 0.125], [-0.25, 0.25], [0.0, 0.0, 0.0]]


def test_leave_one_out_compares_with_the_others():
    found = advantages(GROUPS, "LeaveOneOut")
    for group, scores in zip(GROUPS, found, strict=True):
        for i, score in enumerate(scores):
            others = group[:i] + group[i + 1 :]
            assert score == pytest.approx(group[i] - sum(others) / len(others))


def test_std_scaled_has_unit_spread_within_each_group():
    found = advantages(GROUPS, "StdScaled")
    assert [statistics.pstdev(scores) for scores in found[:2]] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert found[2] == [0.0, 0.0, 0.0]  # no variance: no signal, and no division by zero
    assert found[1] == pytest.approx([-1.0, 1.0], abs=1e-4)


def test_batch_scaled_has_unit_spread_over_the_batch_and_keeps_the_groups_proportions():
    found = advantages(GROUPS, "BatchScaled")
    flat = [score for scores in found for score in scores]
    assert statistics.pstdev(flat) == pytest.approx(1.0, abs=1e-4)
    assert found[0][0] / found[1][1] == pytest.approx(0.625 / 0.25)


@pytest.mark.parametrize("kind", ["MeanCentred", "LeaveOneOut", "StdScaled", "BatchScaled"])
def test_every_kind_sums_to_zero_in_each_group_and_takes_a_group_of_one(kind):
    found = advantages([*GROUPS, [0.7]], kind)
    assert [sum(scores) for scores in found] == pytest.approx([0.0] * 4, abs=1e-12)
    assert found[3] == [0.0]


@pytest.mark.parametrize("group", [[], [0.1, math.nan], [math.inf]])
def test_a_group_without_usable_rewards_is_named(group):
    with pytest.raises(DataError, match="group 1"):
        advantages([[1.0, 0.0], group], "MeanCentred")
