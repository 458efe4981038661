"""What a grader is worth, against scipy and against the definitions written out in loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from qednano.grading.worth import Measure, worth

RNG = np.random.default_rng(7)
HUMAN = RNG.integers(0, 8, 90).astype(float)
GIVEN = np.clip(HUMAN + RNG.normal(0.4, 1.5, 90), 0, 7).round(1)
PROBLEMS = [f"p{number // 6}" for number in range(90)]


@pytest.fixture(scope="module")
def found():
    return worth(HUMAN.tolist(), GIVEN.tolist(), PROBLEMS, seed=1, resamples=300)


def half_up(value):
    return int(value + 0.5)


def test_errors_and_order_agree_with_numpy_and_scipy(found):
    error = GIVEN - HUMAN
    assert found.mae.mean == pytest.approx(np.abs(error).mean())
    assert found.rmse.mean == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found.bias.mean == pytest.approx(error.mean())
    assert found.spearman.mean == pytest.approx(stats.spearmanr(HUMAN, GIVEN).statistic)


def test_kappa_is_one_minus_observed_over_expected_disagreement(found):
    people, grader = [half_up(v) for v in HUMAN], [half_up(v) for v in GIVEN]
    observed = np.mean([(a - b) ** 2 for a, b in zip(people, grader, strict=True)])
    expected = np.mean([(a - b) ** 2 for a in people for b in grader])
    assert found.kappa.mean == pytest.approx(1 - observed / expected)


def test_kappa_of_a_published_table_by_hand():
    # agreement 2x2 at the ends of the scale: po = 0.8, pe = 0.5, so kappa = 0.6 whatever the weights
    human = [0] * 50 + [7] * 50
    given = [0] * 40 + [7] * 10 + [0] * 10 + [7] * 40
    assert worth(human, given, [str(n) for n in range(100)], resamples=10).kappa.mean == pytest.approx(0.6)


def test_buckets_pairs_and_advantages_by_the_definition(found):
    def bucket(value):
        return 0 if value == 0 else 1 if value <= 3 else 2 if value <= 6 else 3

    same = [bucket(half_up(a)) == bucket(half_up(b)) for a, b in zip(HUMAN, GIVEN, strict=True)]
    assert found.bucket_accuracy.mean == pytest.approx(np.mean(same))
    right, pairs, differences = 0.0, 0, []
    for problem in dict.fromkeys(PROBLEMS):
        rows = [n for n, name in enumerate(PROBLEMS) if name == problem]
        for i, j in itertools.combinations(rows, 2):
            if HUMAN[i] != HUMAN[j]:
                pairs += 1
                product = (HUMAN[i] - HUMAN[j]) * (GIVEN[i] - GIVEN[j])
                right += 1.0 if product > 0 else 0.5 if product == 0 else 0.0
        for i in rows:
            people = HUMAN[i] - np.mean([HUMAN[j] for j in rows])
            differences.append(abs(GIVEN[i] - np.mean([GIVEN[j] for j in rows]) - people))
    assert found.pairwise_consistency.mean == pytest.approx(right / pairs)
    assert found.advantage_difference.mean == pytest.approx(np.mean(differences))


def test_confusion_and_calibration_count_the_same_proofs(found):
    table = np.asarray(found.confusion)
    assert table.shape == (8, 8) and table.sum() == 90
    assert table[half_up(HUMAN[0]), half_up(GIVEN[0])] > 0
    for point in found.calibration:
        rows = [n for n in range(90) if half_up(GIVEN[n]) == point.score]
        assert point.count == len(rows) == table[:, point.score].sum()
        assert point.human_mean == pytest.approx(HUMAN[rows].mean())


def test_a_perfect_and_a_constantly_generous_grader():
    perfect = worth(HUMAN.tolist(), HUMAN.tolist(), PROBLEMS, resamples=20)
    assert (perfect.mae.mean, perfect.kappa.mean, perfect.bucket_accuracy.mean) == (0.0, 1.0, 1.0)
    assert perfect.pairwise_consistency.mean == 1.0 and perfect.spearman.mean == pytest.approx(1.0)
    low = np.minimum(HUMAN, 6)
    generous = worth(low.tolist(), (low + 1).tolist(), PROBLEMS, resamples=20)
    assert (generous.mae.mean, generous.bias.mean) == (1.0, 1.0)
    assert generous.advantage_difference.mean == pytest.approx(0.0), "reinforcement learning would not notice"


def test_what_is_not_defined_is_none_and_not_zero():
    same = worth([3, 3, 3], [2, 4, 3], ["a", "a", "b"], resamples=10)
    assert same.pairwise_consistency == same.spearman == Measure(None, None, None)
    alone = worth([1, 5], [1, 5], ["a", "b"], resamples=10)
    assert alone.advantage_difference.mean is None
    assert worth([3, 3], [3, 3], ["a", "b"], resamples=10).kappa.mean is None
    one = worth([1, 5], [2, 5], ["a", "a"])
    assert one.mae == Measure(0.5, 0.5, 0.5), "one problem says nothing of the next"
    with pytest.raises(ValueError, match="no proof"):
        worth([], [], [])
    with pytest.raises(ValueError, match="need as many"):
        worth([1], [1, 2], ["a"])


def test_intervals_hold_the_value_are_seeded_and_of_the_width_of_a_cluster_bootstrap(found):
    again = worth(HUMAN.tolist(), GIVEN.tolist(), PROBLEMS, seed=1, resamples=300)
    assert again == found
    for name in ("mae", "rmse", "bias", "bucket_accuracy", "pairwise_consistency", "kappa", "spearman"):
        measure = getattr(found, name)
        assert measure.low <= measure.mean <= measure.high and measure.low < measure.high
    means = np.abs(GIVEN - HUMAN).reshape(15, 6).mean(axis=1)
    theirs = stats.bootstrap((means,), np.mean, method="percentile", n_resamples=5_000, rng=2).confidence_interval
    assert (found.mae.low, found.mae.high) == pytest.approx((theirs.low, theirs.high), abs=0.08)
