from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy import stats

from qednano.evals.scores import SampleRow, powers_of_two, problem_means, score_all
from qednano.evals.statistics import compare, estimate, pass_at_k


def test_the_interval_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(5).beta(2, 3, size=80)
    ours = estimate(values.tolist(), seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        drawn = rng.binomial(7, 0.6, size=60) / 7
        interval = estimate(drawn.tolist(), seed=trial, resamples=800)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_interval_has_the_width_of_the_normal_approximation():
    values = [0.0] * 100 + [1.0] * 100
    interval = estimate(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / 200**0.5, rel=0.05)


def test_equal_seeds_give_equal_intervals_and_one_problem_has_no_spread():
    values = [0.1, 0.9, 0.4, 0.4]
    assert estimate(values, seed=3) == estimate(values, seed=3)
    single = estimate([0.25])
    assert single.low == single.mean == single.high == 0.25
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_many_problems_are_resampled_in_pieces():
    values = np.random.default_rng(0).random(3_000).tolist()
    interval = estimate(values, resamples=3_000)
    assert interval.low < np.mean(values) < interval.high


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for correct in range(n + 1):
        outcomes = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = [any(subset) for subset in itertools.combinations(outcomes, k)]
            assert pass_at_k(n, correct, k) == pytest.approx(sum(subsets) / len(subsets))


def test_pass_at_k_is_unbiased_in_simulation():
    rng, chance, k = random.Random(1), 0.3, 3
    estimates = [pass_at_k(6, sum(rng.random() < chance for _ in range(6)), k) for _ in range(20_000)]
    assert sum(estimates) / len(estimates) == pytest.approx(1 - (1 - chance) ** k, abs=0.01)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 5, 1), (4, 2, 0), (4, -1, 1)])
def test_pass_at_k_refuses_what_it_is_not_defined_for(n, c, k):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


def test_a_paired_comparison_sees_what_an_unpaired_one_does_not():
    rng = np.random.default_rng(0)
    baseline = rng.random(60) * 0.8
    model = baseline + 0.05 + rng.normal(0, 0.02, 60)
    comparison = compare(model.tolist(), baseline.tolist())
    assert comparison.difference.low > 0.03
    assert estimate(model.tolist()).low < estimate(baseline.tolist()).high, "the intervals of the two overlap"
    assert comparison.better + comparison.worse + comparison.equal == 60


def test_comparisons_count_problems_and_need_the_same_ones():
    comparison = compare([1.0, 0.5, 0.2], [0.5, 0.5, 0.4])
    assert (comparison.better, comparison.equal, comparison.worse) == (1, 1, 1)
    with pytest.raises(ValueError, match="same"):
        compare([1.0], [1.0, 2.0])


def row(model: str, problem: str, index: int, score: int | None, finish: str = "stop", tokens: int = 10) -> SampleRow:
    return SampleRow(model, problem, index, "t", "t", score, "r", "{}", finish, 5, tokens, 0.1)


def test_scores_of_models_by_hand():
    rows = [
        row("new", "a", 0, 7),
        row("new", "a", 1, 0, finish="length", tokens=30),
        row("new", "b", 0, 7),
        row("new", "b", 1, None),
        row("old", "a", 0, 0),
        row("old", "a", 1, 0),
        row("old", "b", 0, 7),
        row("old", "b", 1, 7),
    ]
    scores = score_all(["new", "old"], rows, {"a": 1, "b": 2}, samples=2)
    new, old = scores.models
    assert new.score.mean == pytest.approx((0.5 + 1.0) / 2), "the ungraded sample counts neither way"
    assert (new.ungraded, new.samples, new.truncated_share) == (1, 4, 0.25)
    assert new.pass_at_k[1].mean == pytest.approx((0.5 + 1.0) / 2)
    assert list(new.pass_at_k) == [1], "one problem has a single graded sample"
    assert old.pass_at_k[2].mean == pytest.approx(0.5)
    assert new.distribution == [1, 0, 0, 0, 0, 0, 0, 2]
    assert new.by_difficulty == {1: 0.5, 2: 1.0}
    assert scores.comparisons["old"].difference.mean == pytest.approx(0.25)
    assert (new.tokens_total, new.tokens_median) == (60, 10)


def test_nothing_graded_is_an_error_and_no_zero():
    with pytest.raises(ValueError, match="no sample of m was graded"):
        score_all(["m"], [row("m", "a", 0, None)], {}, samples=1)
    assert problem_means([row("m", "a", 0, None)]) == {}


@pytest.mark.parametrize(("limit", "ks"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_which_k_are_reported(limit, ks):
    assert powers_of_two(limit) == ks
