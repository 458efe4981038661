"""The best next step for one problem, at a price for tokens: another vote, a refinement, a fresh proof, or stop. Pure.

An optimal stopping problem, solved by value iteration: the state is the belief in the proof that is tested, the floor
is the belief in the best other one, and stopping earns the larger of both. With Lagrange's price on tokens a budget
over many problems falls apart into one such problem each (Whittle 1988; sequential tests after Wald 1945): problems
that are solved or hopeless stop by themselves, and what they leave goes to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from qednano.evals.scaffolds.belief import Verifier

_BELIEFS = np.linspace(0.0, 1.0, 61)
_FLOORS = np.linspace(0.0, 1.0, 11)
_RATES = np.array([0.001, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
_ITERATIONS, _CLOSE = 120, 2e-4
STOP, VOTE, WRITE, REFINE = 0, 1, 2, 3


@dataclass(frozen=True)
class Costs:
    """Of a step: score (0 to 1) for its tokens at the price of tokens."""

    write: float
    refine: float
    vote: float


@dataclass(frozen=True)
class Table:
    """Value of going on with a tested proof, and the best action; [rate, floor, belief].

    `after`: what values become in the mean after a vote, a fresh proof and a refinement.
    """

    value: NDArray[np.float64]
    action: NDArray[np.int64]
    after: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], ...]]

    @cached_property
    def steps(self) -> dict[int, NDArray[np.float64]]:
        """Expected number of steps of each kind from each state, under the best actions."""
        found = {}
        for kind in (WRITE, REFINE, VOTE):
            count = np.zeros_like(self.value)
            for _ in range(_ITERATIONS // 2):
                asked, again, refined = self.after(count)
                count = np.choose(self.action, [np.zeros_like(count), asked, again, refined]) + (self.action == kind)
            found[kind] = count
        return found

    def look(self, values: NDArray[np.float64], rate: float, floor: float, belief: float) -> float:
        """A value between the grid's points, linear in each."""
        first, second = _between(_RATES, rate), _between(_FLOORS, floor)
        place = min(max(belief, 0.0), 1.0) * (len(_BELIEFS) - 1)
        low = min(int(place), len(_BELIEFS) - 2)
        found = 0.0
        for r, rate_share in first:
            for f, floor_share in second:
                row = values[r, f]
                found += rate_share * floor_share * (row[low] + (place - low) * (row[low + 1] - row[low]))
        return float(found)


def _between(grid: NDArray[np.float64], value: float) -> list[tuple[int, float]]:
    """The grid's points around a value, with their weights."""
    if value <= grid[0]:
        return [(0, 1.0)]
    if value >= grid[-1]:
        return [(len(grid) - 1, 1.0)]
    high = int(np.searchsorted(grid, value))
    share = float((value - grid[high - 1]) / (grid[high] - grid[high - 1]))
    return [(high - 1, 1 - share), (high, share)]


def table(verifier: Verifier, keep: float, mend: float, costs: Costs) -> Table:
    """Solve for all rates of success, floors and beliefs; equal (rounded) arguments are solved once."""
    return _table(
        round(verifier.if_right * 25) / 25,
        round(verifier.if_wrong * 25) / 25,
        round(keep * 20) / 20,
        _rounded(mend, 1.3),
        _rounded(costs.write, 1.15),
        _rounded(costs.refine, 1.15),
        _rounded(costs.vote, 1.15),
    )


def _rounded(value: float, step: float) -> float:
    """The nearest power of `step`: these are estimates, and each set of them is a table of its own."""
    return float(step ** round(np.log(max(value, 1e-9)) / np.log(step)))


@lru_cache(maxsize=512)
def _table(
    if_right: float, if_wrong: float, keep: float, mend: float, write: float, refine: float, vote: float
) -> Table:
    if_right, if_wrong = min(0.99, max(0.02, if_right)), min(0.98, max(0.01, if_wrong))
    passes = _BELIEFS * if_right + (1 - _BELIEFS) * if_wrong
    # one matrix for a vote: the mean over both outcomes
    voting = passes * _mixing(_BELIEFS * if_right / passes) + (1 - passes) * _mixing(
        _BELIEFS * (1 - if_right) / (1 - passes)
    )
    fresh = _mixing(_RATES)
    odds = mend * _RATES / np.maximum(1e-6, 1 - _RATES)
    mended = odds / (1 + odds)
    refining = np.stack([_mixing(_BELIEFS * keep + (1 - _BELIEFS) * rate) for rate in mended])
    stop = np.maximum(_BELIEFS[None, :], _FLOORS[:, None])[None].repeat(len(_RATES), 0)

    def after(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        started = np.einsum("rfb,br->rf", values, fresh)[:, :, None]
        return values @ voting, np.broadcast_to(started, values.shape), values @ refining

    value = stop.copy()
    for _ in range(_ITERATIONS):
        asked, again, refined = after(value)
        new = np.maximum(np.maximum(stop, asked - vote), np.maximum(again - write, refined - refine))
        change = float(np.max(np.abs(new - value)))
        value = new
        if change < _CLOSE:
            break
    asked, again, refined = after(value)
    action = np.argmax(np.stack([stop + 1e-9, asked - vote, again - write, refined - refine]), axis=0)
    return Table(value, action, after)


def _mixing(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix (beliefs, points) that interpolates linearly at the points."""
    place = np.clip(points, 0, 1) * (len(_BELIEFS) - 1)
    low = np.minimum(place.astype(int), len(_BELIEFS) - 2)
    matrix = np.zeros((len(_BELIEFS), len(points)))
    columns = np.arange(len(points))
    matrix[low, columns] = 1 - (place - low)
    matrix[low + 1, columns] += place - low
    return matrix
