"""Statistics of an evaluation. Problems are the unit: samples of one problem are not independent of each other.

Intervals are percentile bootstrap over problems (Efron & Tibshirani 1993, ch. 13), seeded. pass@k is the unbiased
estimator of Chen et al. 2021 (arXiv 2107.03374, eq. 1), and best-of-k its twin for scores. The p-value of a paired
comparison is that of the sign-flip permutation test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
FLIPS = 20_000  # random sign flips, where there are too many to try all
_EXACT = 14  # problems up to which all sign flips are tried
_CHUNK = 4_000_000  # drawn indices held at once


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval; without spread (one problem) the interval is the mean itself."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Runs:
    """The benchmark as if run n times, sample j of each problem being run j: mean and standard deviation of scores.

    The standard deviation (n - 1 below) says how far one run differs from the next; None for a single run.
    """

    scores: list[float]
    mean: float
    std: float | None


@dataclass(frozen=True)
class Comparison:
    """Model minus baseline on the problems that both answered; counts of problems by who did better.

    ``p_value``: how often a difference as large would come about if neither were better, two-sided.
    """

    difference: Estimate
    better: int
    worse: int
    equal: int
    p_value: float = 1.0


def estimate(per_problem: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over problems with a bootstrap interval. Raises ValueError for no problems."""
    values = np.asarray(per_problem, dtype=np.float64)
    if values.size == 0:
        raise ValueError("an estimate needs at least one problem")
    rng = np.random.default_rng(seed)
    means, rows = [], max(1, _CHUNK // values.size)
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, values.size, size=(min(rows, resamples - start), values.size))
        means.append(values[drawn].mean(axis=1))
    low, high = interval(np.concatenate(means))
    return Estimate(float(values.mean()), low, high)


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of a statistic's resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from `samples`, is correct."""
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} is not defined for {correct} correct of {samples} samples")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def best_of_k(scores: Sequence[float], k: int) -> float:
    """Expected highest score of k samples drawn without replacement: what a perfect selector would get.

    The i-th smallest of n scores is the highest of a draw in comb(i - 1, k - 1) of the comb(n, k) draws.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"best of {k} is not defined for {len(scores)} samples")
    weighted = (score * comb(rank, k - 1) for rank, score in enumerate(sorted(scores)))
    return sum(weighted) / comb(len(scores), k)


def over_runs(samples: Sequence[Sequence[float | None]]) -> Runs | None:
    """`samples[p][j]` is sample j of problem p, None without a grade. None when no run has any grade.

    A run's score is the mean over the problems that were graded in it.
    """
    longest = max((len(row) for row in samples), default=0)
    scores = []
    for run in range(longest):
        graded = [row[run] for row in samples if run < len(row)]
        values = [value for value in graded if value is not None]
        if values:
            scores.append(sum(values) / len(values))
    if not scores:
        return None
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Runs(scores, sum(scores) / len(scores), std)


def compare(model: Sequence[float], baseline: Sequence[float], seed: int = 0) -> Comparison:
    """Paired difference of per-problem means, in the same order of problems."""
    if len(model) != len(baseline):
        raise ValueError(f"{len(model)} problems against {len(baseline)}: a paired comparison needs the same ones")
    differences = np.asarray(model, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return Comparison(
        estimate(differences.tolist(), seed),
        better=int((differences > 1e-12).sum()),
        worse=int((differences < -1e-12).sum()),
        equal=int((np.abs(differences) <= 1e-12).sum()),
        p_value=sign_flip_p(differences.tolist(), seed),
    )


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences: how often random signs give one as far from 0.

    Exact, over all sign patterns, up to 14 differences other than 0; else by random patterns, the observed one
    counted among them (Phipson & Smyth 2010), so that it is never 0.
    """
    values = np.abs(np.asarray([value for value in differences if abs(value) > 1e-12], dtype=np.float64))
    if values.size == 0:
        return 1.0
    seen = abs(sum(differences)) - 1e-9 * values.sum()
    if values.size <= _EXACT:
        patterns = (np.arange(1 << values.size)[:, None] >> np.arange(values.size)) & 1
        return float((np.abs((2 * patterns - 1) @ values) >= seen).mean())
    rng = np.random.default_rng(seed)
    extreme, rows = 0, max(1, _CHUNK // values.size)
    for start in range(0, FLIPS, rows):
        signs = rng.integers(0, 2, size=(min(rows, FLIPS - start), values.size), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ values) >= seen).sum())
    return (extreme + 1) / (FLIPS + 1)
