"""Statistics of an evaluation. Problems are the unit: samples of one problem are not independent of each other.

Intervals are percentile bootstrap over problems (Efron & Tibshirani 1993, ch. 13), seeded. pass@k is the unbiased
estimator of Chen et al. 2021 (arXiv 2107.03374, eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
_CHUNK = 4_000_000  # drawn indices held at once


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval; without spread (one problem) the interval is the mean itself."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Model minus baseline on the problems that both answered; counts of problems by who did better."""

    difference: Estimate
    better: int
    worse: int
    equal: int


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
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(float(values.mean()), float(low), float(high))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from `samples`, is correct."""
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} is not defined for {correct} correct of {samples} samples")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


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
    )
