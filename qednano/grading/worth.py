"""What a grader is worth beside people: errors, agreement and order, with intervals. Pure; scores in, numbers out.

Scores are points from 0 to 7. Intervals are percentile bootstrap over problems: proofs of one problem are not
independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qednano.grading.interface import FULL_SCORE

RESAMPLES = 1_000
BUCKETS = ((0, 0), (1, 3), (4, 6), (7, 7))  # nothing, some progress, nearly a proof, a proof
_LEVELS = FULL_SCORE + 1
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A number with its interval; all None where it is not defined, as an order of proofs with equal human scores."""

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CalibrationPoint:
    """Proofs that the grader gave `score` (rounded): how many, and their mean human score."""

    score: int
    count: int
    human_mean: float


@dataclass(frozen=True)
class Worth:
    """How one grader did. `confusion[h][g]` counts proofs that people gave h and the grader g (rounded)."""

    proofs: int
    mae: Measure
    rmse: Measure
    bias: Measure
    bucket_accuracy: Measure
    pairwise_consistency: Measure
    advantage_difference: Measure
    kappa: Measure
    spearman: Measure
    calibration: list[CalibrationPoint]
    confusion: list[list[int]]


def _ratio(sums: Scores) -> Scores:
    """First column over the second; not a number where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def absolute_errors(human: Scores, given: Scores) -> list[float]:
    """Mean of |grader - human|, in points."""
    return [float(np.abs(given - human).sum()), len(human)]


def squared_errors(human: Scores, given: Scores) -> list[float]:
    """Root of the mean of (grader - human)²: large errors count more."""
    return [float(((given - human) ** 2).sum()), len(human)]


def errors(human: Scores, given: Scores) -> list[float]:
    """Mean of grader - human; above 0 the grader is generous."""
    return [float((given - human).sum()), len(human)]


def same_buckets(human: Scores, given: Scores) -> list[float]:
    """Share of proofs in the same bucket of 0, 1-3, 4-6, 7 after rounding."""
    edges = [low for low, _ in BUCKETS[1:]]
    return [float((np.digitize(rounded(human), edges) == np.digitize(rounded(given), edges)).sum()), len(human)]


def ordered_pairs(human: Scores, given: Scores) -> list[float]:
    """Of the pairs of proofs of one problem that people scored differently, the share that the grader orders alike.

    A pair that the grader gives equal scores counts half.
    """
    pairs = np.triu_indices(len(human), 1)
    wanted = np.sign(human[:, None] - human[None, :])[pairs]
    found = np.sign(given[:, None] - given[None, :])[pairs]
    decided = wanted != 0
    return [float(((wanted * found)[decided] + 1).sum() / 2), float(decided.sum())]


def advantage_differences(human: Scores, given: Scores) -> list[float]:
    """Mean of |advantage by the grader - advantage by people|, in points, over problems with several proofs.

    An advantage is the score minus the mean score of the problem's proofs: what reinforcement learning sees of a
    grade. A grader that is always a point too generous has no such difference.
    """
    if len(human) < 2:
        return [0.0, 0.0]
    error = given - human
    return [float(np.abs(error - error.mean()).sum()), len(human)]


def confusion(human: Scores, given: Scores) -> list[float]:
    """Cohen's kappa with quadratic weights (Cohen 1968) over rounded scores."""
    return [float(count) for count in confusion_of(human, given).ravel()]


def _kappa(sums: Scores) -> Scores:
    seen = sums.reshape(*sums.shape[:-1], _LEVELS, _LEVELS)
    weights = (np.arange(_LEVELS)[:, None] - np.arange(_LEVELS)[None, :]) ** 2
    expected = seen.sum(axis=-1)[..., :, None] * seen.sum(axis=-2)[..., None, :]
    observed = (weights * seen).sum(axis=(-2, -1)) * seen.sum(axis=(-2, -1))
    by_chance = (weights * expected).sum(axis=(-2, -1))
    return 1.0 - _ratio(np.stack([observed, by_chance], axis=-1))


@dataclass(frozen=True)
class _Additive:
    """A measure made of sums over problems: what one problem adds, and what the sums come to."""

    of_problem: Callable[[Scores, Scores], list[float]]
    finish: Callable[[Scores], Scores] = _ratio


MEASURES: dict[str, _Additive] = {
    "mae": _Additive(absolute_errors),
    "rmse": _Additive(squared_errors, lambda sums: np.sqrt(_ratio(sums))),
    "bias": _Additive(errors),
    "bucket_accuracy": _Additive(same_buckets),
    "pairwise_consistency": _Additive(ordered_pairs),
    "advantage_difference": _Additive(advantage_differences),
    "kappa": _Additive(confusion, _kappa),
}
"""Measures by their field of Worth; a new one is a row here and a field there. Not a number: not defined."""


def spearman(human: Scores, given: Scores, weights: Scores) -> Scores:
    """Spearman's rank correlation for each row of `weights` (draws x proofs), which says how often a proof is there.

    Equal scores share their mean rank. Not a number where one side is constant.
    """
    first, second = _ranks(human, weights), _ranks(given, weights)
    count = weights.sum(axis=1, keepdims=True)
    first = first - (weights * first).sum(axis=1, keepdims=True) / count
    second = second - (weights * second).sum(axis=1, keepdims=True) / count
    together = (weights * first * second).sum(axis=1)
    scale = np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1))
    return _ratio(np.stack([together, scale], axis=-1))


def _ranks(values: Scores, weights: Scores) -> Scores:
    levels, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), len(levels)))
    np.add.at(counts.T, place, weights.T)
    ends = np.cumsum(counts, axis=1)
    return (ends - (counts - 1) / 2)[:, place]


def worth(
    human: Sequence[float], given: Sequence[float], problems: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Worth:
    """All measures of a grader on proofs of problems, in the same order. Raises ValueError for none or odd lengths."""
    if not len(human) == len(given) == len(problems):
        raise ValueError(f"{len(human)} human scores, {len(given)} grades and {len(problems)} problems: need as many")
    if not len(human):
        raise ValueError("no proof has both a human score and a grade")
    people, grader = np.asarray(human, dtype=np.float64), np.asarray(given, dtype=np.float64)
    _, group = np.unique(np.asarray(problems), return_inverse=True)
    measured = _measures(people, grader, group.astype(np.int64), seed, resamples)
    return Worth(
        proofs=len(human),
        calibration=calibration(people, grader),
        confusion=confusion_of(people, grader).tolist(),
        **measured,
    )


def _measures(
    human: Scores, given: Scores, problems: NDArray[np.int64], seed: int, resamples: int
) -> dict[str, Measure]:
    groups = _groups(problems)
    rng = np.random.default_rng(seed)
    chances = np.full(len(groups), 1 / len(groups))
    # how often each problem is drawn; the first row is the data as they are
    times = np.vstack([np.ones(len(groups)), rng.multinomial(len(groups), chances, size=resamples)])
    found = {}
    for name, measure in MEASURES.items():
        sums = np.asarray([measure.of_problem(human[rows], given[rows]) for rows in groups], dtype=np.float64)
        found[name] = _measure(measure.finish(times @ sums), len(groups))
    return found | {"spearman": _measure(spearman(human, given, times[:, problems]), len(groups))}


def _measure(values: Scores, problems: int) -> Measure:
    """The value and the percentile interval of its resampled ones; of one problem there is nothing to resample."""
    if np.isnan(values[0]):
        return Measure(None, None, None)
    value, drawn = float(values[0]), values[1:][~np.isnan(values[1:])]
    if problems < 2 or not drawn.size:
        return Measure(value, value, value)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Measure(value, float(low), float(high))


def calibration(human: Scores, given: Scores) -> list[CalibrationPoint]:
    """For each rounded grade that was given, what people thought of those proofs."""
    levels = rounded(given)
    return [
        CalibrationPoint(level, int((levels == level).sum()), float(human[levels == level].mean()))
        for level in range(_LEVELS)
        if (levels == level).any()
    ]


def confusion_of(human: Scores, given: Scores) -> NDArray[np.int64]:
    """8 x 8 counts over rounded scores; rows are human, columns the grader's."""
    table = np.zeros((_LEVELS, _LEVELS), dtype=np.int64)
    np.add.at(table, (rounded(human), rounded(given)), 1)
    return table


def rounded(scores: Scores) -> NDArray[np.int64]:
    """Whole points, halves up."""
    return np.clip(np.floor(scores + 0.5), 0, FULL_SCORE).astype(np.int64)


def _groups(problems: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each problem."""
    order = np.argsort(problems, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(problems[order])) + 1)
