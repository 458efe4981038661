"""The best next step for one problem, at a price for tokens: another vote, a refinement, a fresh proof, or stop. Pure.

An optimal stopping problem, solved backwards over the number of proofs that failed: each failure says that the problem
is harder than it was taken for, and the last one that may be written is the last to pay. Within a number of failures
it is solved backwards over the votes on the proof that is tested: the state is their count, how many of them passed,
the belief in it and the floor, which is the belief in the best other one; stopping earns the larger of both. With
Lagrange's price on tokens a budget over many problems falls apart into one such problem each (Whittle 1988; sequential
tests after Wald 1945): problems that are solved or hopeless stop by themselves, and what they leave goes to the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qednano.evals.scaffolds.belief import Failing, Verifier

Values = NDArray[np.float64]
_POINTS = 41
_BELIEFS = np.sin(np.linspace(0.0, np.pi / 2, _POINTS)) ** 2  # dense at both ends: a hard problem's beliefs are near 0
_FLOORS = np.linspace(0.0, 1.0, 9)
_VOTES = 8  # on one proof that are looked ahead to
STOP, VOTE, WRITE, REFINE = 0, 1, 2, 3


@dataclass(frozen=True)
class Costs:
    """Of a step: score (0 to 1) for its tokens at the price of tokens."""

    write: float
    refine: float
    vote: float


@dataclass(frozen=True)
class Table:
    """What going on is worth and what it costs, in score; [proofs that failed, votes, floor, belief in the tested one].

    Votes on the tested proof are numbered by `_number`. `rates[k]` is how likely a fresh proof is right after k
    failures, so a problem's place is found by it.
    """

    value: Values
    spent: Values
    rates: Values

    def place(self, rate: float) -> float:
        """How many failures stand for a problem whose fresh proofs are right with chance `rate`."""
        return float(np.interp(-rate, -self.rates, np.arange(len(self.rates))))

    def look(
        self, values: Values, failed: float, floor: float, belief: float, votes: tuple[int, int] = (0, 0)
    ) -> float:
        """A value between the grid's points, linear in each. `votes`: passed and all, on the tested proof."""
        found, place = 0.0, _number(*votes)
        low, shares = _place(belief)
        column, share = int(low), float(shares)
        for row, row_share in _both(floor, _FLOORS):
            for layer, layer_share in _layers(failed, len(values)):
                line = values[layer, place, row]
                found += row_share * layer_share * (line[column] + share * (line[column + 1] - line[column]))
        return float(found)


def _number(passed: int, votes: int) -> int:
    """Of a state of the votes; those beyond what is looked ahead to count as the last, with the same share."""
    if votes > _VOTES:
        passed, votes = round(passed * _VOTES / votes), _VOTES
    return votes * (votes + 1) // 2 + passed


def _between(value: float, grid: Values) -> tuple[int, float]:
    """The grid's point at or below a value from 0 to 1, and how far it is from there to the next."""
    place = min(max(value, 0.0), 1.0) * (len(grid) - 1)
    low = min(int(place), len(grid) - 2)
    return low, place - low


def _place(beliefs: Values | float) -> tuple[NDArray[np.int64], Values]:
    """For each belief the grid's point at or below it, and how far it is from there to the next."""
    place = np.arcsin(np.sqrt(np.clip(beliefs, 0.0, 1.0))) * ((_POINTS - 1) * 2 / np.pi)
    low = np.minimum(place.astype(np.int64), _POINTS - 2)
    return low, ((beliefs - _BELIEFS[low]) / (_BELIEFS[low + 1] - _BELIEFS[low])).clip(0.0, 1.0)


def _both(value: float, grid: Values) -> list[tuple[int, float]]:
    low, share = _between(value, grid)
    return [(low, 1 - share), (low + 1, share)] if share else [(low, 1.0)]


def _layers(failed: float, count: int) -> list[tuple[int, float]]:
    low = int(max(0.0, failed))
    if low >= count - 1:
        return [(count - 1, 1.0)]
    share = max(0.0, failed) - low
    return [(low, 1 - share), (low + 1, share)] if share else [(low, 1.0)]


def table(verifier: Verifier, keep: float, failing: Failing, costs: Costs, most: int = _VOTES) -> Table:
    """Solve for all numbers of failures that `failing` has, votes (at most `most`), floors and beliefs."""
    stop = np.maximum(_BELIEFS[None, :], _FLOORS[:, None])
    nothing = np.zeros_like(stop)
    steps = _steps(verifier, min(most, _VOTES))
    layers = _paying(failing, costs)
    value = np.empty((layers + 1, _number(_VOTES, _VOTES) + 1, *stop.shape))
    spent = np.empty_like(value)
    _voted(value[layers], spent[layers], stop, nothing, steps, costs.vote)
    for failed in range(layers - 1, -1, -1):
        base, paid = stop, nothing
        fresh = _mixing(np.full(len(_BELIEFS), failing.rates[failed + 1]))
        refined = _mixing(_BELIEFS * keep + (1 - _BELIEFS) * failing.mended[failed + 1])
        for mixing, cost in ((fresh, costs.write), (refined, costs.refine)):
            then, cost_then = (item[failed + 1, 0] @ mixing for item in (value, spent))
            better = then - cost > base
            base, paid = np.where(better, then - cost, base), np.where(better, cost_then + cost, paid)
        _voted(value[failed], spent[failed], base, paid, steps, costs.vote)
    return Table(value, spent, failing.rates[: layers + 1])


def _paying(failing: Failing, costs: Costs) -> int:
    """After how many failures nothing that is written can be worth what it costs."""
    pays = (failing.rates > costs.write) | (failing.mended > costs.refine)
    return min(len(failing.rates) - 1, int(pays.sum()))


@dataclass(frozen=True)
class _Step:
    """One more vote after so many: [passed, 1, belief] chances, and columns and shares of the beliefs afterwards."""

    chance: Values
    outcomes: tuple[tuple[NDArray[np.int64], Values], tuple[NDArray[np.int64], Values]]


def _steps(verifier: Verifier, most: int) -> list[_Step]:
    found = []
    for votes in range(most):
        both = np.array([verifier.next_vote(passed, votes) for passed in range(votes + 1)]).clip(0.01, 0.99)
        right, wrong = both[:, :1], both[:, 1:]
        chance = _BELIEFS * right + (1 - _BELIEFS) * wrong
        outcomes = []
        for belief in (_BELIEFS * right / chance, _BELIEFS * (1 - right) / (1 - chance)):
            low, share = _place(belief)
            outcomes.append((low[:, None], share[:, None]))
        found.append(_Step(chance[:, None], (outcomes[0], outcomes[1])))
    return found


def _voted(value: Values, spent: Values, base: Values, paid: Values, steps: list[_Step], vote: float) -> None:
    """Fill in value and expected cost when, besides what `base` is worth, votes may be asked for."""
    value[:], spent[:] = base, paid
    for votes in range(len(steps) - 1, -1, -1):
        here, after = slice(_number(0, votes), _number(votes, votes) + 1), _number(0, votes + 1)
        asked, cost = (_mean(item[after : after + votes + 2], steps[votes]) for item in (value, spent))
        asks = asked - vote > base + 1e-9
        value[here] = np.where(asks, asked - vote, base)
        spent[here] = np.where(asks, cost + vote, paid)


def _mean(after: Values, step: _Step) -> Values:
    """Over both outcomes of a vote: [passed, floor, belief] of values [passed afterwards, floor, belief]."""
    (low_up, share_up), (low_down, share_down) = step.outcomes
    up = _columns(after[1:], low_up, share_up)
    down = _columns(after[:-1], low_down, share_down)
    return step.chance * up + (1 - step.chance) * down


def _columns(values: Values, low: NDArray[np.int64], share: Values) -> Values:
    low = np.broadcast_to(low, values.shape)
    first = np.take_along_axis(values, low, axis=2)
    return first + share * (np.take_along_axis(values, low + 1, axis=2) - first)


def _mixing(points: Values) -> Values:
    """The matrix (beliefs, points) that interpolates linearly at the points."""
    low, share = _place(points)
    matrix = np.zeros((_POINTS, len(points)))
    columns = np.arange(len(points))
    matrix[low, columns] = 1 - share
    matrix[low + 1, columns] += share
    return matrix
