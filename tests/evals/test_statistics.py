from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from scipy import stats

from qednano.evals.scores import SampleRow, powers_of_two, problem_means, score_all, spent
from qednano.evals.statistics import best_of_k, compare, estimate, over_runs, pass_at_k, sign_flip_p


def test_the_interval_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(5).beta(2, 3, size=80)
    ours = estimate(values.tolist(), seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


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


# -- over runs, best of k, paired tests -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 6])
def test_best_of_k_is_the_mean_over_subsets_of_their_highest_score(n):
    scores = np.random.default_rng(n).integers(0, 8, n).tolist()
    for k in range(1, n + 1):
        highest = [max(subset) for subset in itertools.combinations(scores, k)]
        assert best_of_k(scores, k) == pytest.approx(sum(highest) / len(highest))


def test_best_of_k_of_right_and_wrong_is_pass_at_k_and_of_one_the_mean():
    scores = [7, 0, 0, 7, 0, 0]
    for k in range(1, 7):
        assert best_of_k(scores, k) / 7 == pytest.approx(pass_at_k(6, 2, k))
    assert best_of_k([1, 2, 6], 1) == pytest.approx(3)
    for k in (0, 4):
        with pytest.raises(ValueError, match="not defined"):
            best_of_k([1, 2, 3], k)


def test_runs_are_columns_of_samples_and_ungraded_ones_count_in_none():
    runs = over_runs([[1.0, 0.0, None], [0.5, 0.5, None], [None, 1.0, None]])
    assert runs.scores == [0.75, 0.5]
    assert runs.mean == pytest.approx(0.625)
    assert runs.std == pytest.approx(np.std([0.75, 0.5], ddof=1))
    assert over_runs([[0.5]]).std is None
    assert over_runs([[None], []]) is None


@pytest.mark.parametrize(("n", "tolerance"), [(6, 1e-12), (14, 1e-12), (40, 0.015)])
def test_the_p_value_agrees_with_scipys_sign_flip_test(n, tolerance):
    values = np.random.default_rng(n).normal(0.25, 1.0, n)
    theirs = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        alternative="two-sided",
        n_resamples=20_000,
        rng=1,
        vectorized=True,
    )
    assert sign_flip_p(values.tolist()) == pytest.approx(theirs.pvalue, abs=tolerance)


def test_p_values_by_hand_and_of_nothing():
    assert sign_flip_p([1.0, 1.0, 1.0]) == pytest.approx(2 / 8)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([0.0, 1.0]) == 1.0
    assert 0 < sign_flip_p([1.0] * 200) < 1e-4


def test_a_true_null_is_refused_as_often_as_the_level_says():
    rng = np.random.default_rng(3)
    values = [sign_flip_p(rng.normal(0, 1, 12).tolist()) for _ in range(600)]
    assert 0.03 < np.mean(np.asarray(values) < 0.05) < 0.075


def test_the_interval_covers_the_truth_in_93_to_97_percent_of_evaluations():
    """60 problems of unequal difficulty, scores 0 to 7: problems are drawn anew in each of 2,000 evaluations."""
    rng = np.random.default_rng(11)
    truth, covered, trials = 0.5, 0, 2_000
    for trial in range(trials):
        chances = rng.beta(1.2, 1.2, size=60)
        means = rng.binomial(7 * 4, chances) / (7 * 4)
        found = estimate(means.tolist(), seed=trial, resamples=1_000)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / trials <= 0.97


def test_the_interval_of_a_paired_difference_covers_it_too():
    rng = np.random.default_rng(12)
    covered, trials = 0, 1_000
    for trial in range(trials):
        chances = rng.beta(1.2, 1.2, size=60) * 0.9
        old, new = (rng.binomial(28, chances + gain) / 28 for gain in (0.0, 0.1))
        found = estimate((new - old).tolist(), seed=trial, resamples=1_000)
        covered += found.low <= 0.1 <= found.high
    assert 0.93 <= covered / trials <= 0.97


# -- scores -----------------------------------------------------------------------------------------------------------


def priced(model, problem, index, score, tokens, cost, details="{}"):
    return SampleRow(model, problem, index, "t", "t", score, "r", details, "stop", 5, tokens, 0.1, cost=cost)


def test_what_points_and_problems_cost_by_hand():
    usage = '{"usage": {"calls": 1, "prompt_tokens": 3, "completion_tokens": 2, "cost": 0.01}}'
    rows = [
        priced("m", "a", 0, 7, 100, 1.0, usage),
        priced("m", "b", 0, 0, 300, 3.0),
        priced("m", "b", 1, None, 200, 2.0),
    ]
    found = spent(rows)
    assert (found.tokens, found.tokens_per_problem, found.tokens_per_point) == (600, 300.0, 600 / 7)
    assert (found.cost, found.cost_per_problem, found.cost_per_point) == (6.0, 3.0, 6 / 7)
    assert (found.tokens_by_correct, found.tokens_by_incorrect) == (100.0, 300.0)
    assert (found.grader_tokens, found.grader_cost) == (5, 0.01)
    unknown = spent([*rows, priced("m", "c", 0, 7, 1, None)])
    assert (unknown.cost, unknown.cost_per_point) == (None, None)
    assert spent([priced("m", "a", 0, 0, 10, 0.0)]).tokens_per_point is None


def test_the_price_of_a_point_gained_over_a_baseline():
    rows = [priced("new", "a", 0, 7, 300, 3.0), priced("old", "a", 0, 3, 100, 1.0), priced("new", "b", 0, 1, 9, 9.0)]
    scores = score_all(["new", "old"], rows, {}, samples=1)
    assert scores.gains["old"].tokens_per_point == pytest.approx(200 / 4)
    assert scores.gains["old"].cost_per_point == pytest.approx(2 / 4)
    worse = score_all(["old", "new"], rows, {}, samples=1)
    assert worse.gains["new"].tokens_per_point is None


def test_correct_is_one_rule_that_is_named_and_splits_are_by_column():
    rows = [priced("m", "a", 0, 6, 1, 0.0), priced("m", "a", 1, 5, 1, 0.0), priced("m", "b", 0, 7, 1, 0.0)]
    rows.append(priced("m", "b", 1, 2.5, 1, 0.0))
    splits = {"a": {"level": "Basic", "year": "2024"}, "b": {"level": "Advanced"}}
    scores = score_all(["m"], rows, {}, samples=2, splits=splits, correct_score=6)
    model = scores.models[0]
    assert model.correct.mean == pytest.approx(0.5)
    assert scores.as_json()["rules"]["correct"] == "score >= 6"
    assert score_all(["m"], rows, {}, samples=2).models[0].correct.mean == pytest.approx(0.25)
    assert {part: split.score.mean for part, split in model.splits["level"].items()} == {
        "Basic": pytest.approx(5.5 / 7),
        "Advanced": pytest.approx(4.75 / 7),
    }
    assert (model.splits["year"]["2024"].problems, len(model.splits["year"])) == (1, 1)
    assert model.points.mean == pytest.approx(7 * model.score.mean)
    assert model.best_of_k[2].mean == pytest.approx((6 + 7) / 2 / 7)
    assert model.distribution == [0, 0, 1, 0, 0, 1, 1, 1]
    assert scores.per_problem["m"]["b"].best == 1.0
    assert scores.per_problem["m"]["a"].std == pytest.approx(np.std([6 / 7, 5 / 7], ddof=1))
    json.dumps(scores.as_json(), allow_nan=False)
