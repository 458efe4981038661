"""A curriculum: which measured problems stay, in which proportions, and in which order they are met."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qednano.api.data_stages import Band, CurriculumStage, Measure, Order
from qednano.data.reorder import reordered
from qednano.data.schema import ProblemRow
from qednano.data.stage import Place, StageWork, Tally

_UNMEASURED, _IN_NO_BAND, _SURPLUS = -1, -2, -3
"""What stands for a band's number in the fate of a row that is in none."""


def measure(row: ProblemRow, by: Measure) -> float | None:
    """A row's measure, 0..1; None if it has none."""
    return row.pass_rate if by is Measure.PASS_RATE else row.mean_reward


def band_of(value: float | None, bands: Sequence[Band]) -> int:
    """The number of the first band that holds a measure, or why there is none; without bands all are in number 0."""
    if value is None:
        return _UNMEASURED
    if not bands:
        return 0
    percent = round(value * 100, 6)  # 7/100 must be 7, not 7.000000000000001
    for number, band in enumerate(bands):
        if band.min_percent <= percent <= band.max_percent:
            return number
    return _IN_NO_BAND


def mixed(fates: NDArray[np.int64], bands: Sequence[Band], seed: int) -> NDArray[np.int64]:
    """The fates with the surplus of each band marked, so that what is left is in the proportion of the shares.

    As many rows as possible stay: the band that is scarcest for its share stays whole.
    """
    if not any(band.share for band in bands):
        return fates
    counts = Counter(fates.tolist())
    unit = min(counts[number] / band.share for number, band in enumerate(bands))
    left = fates.copy()
    for number, band in enumerate(bands):
        positions = np.flatnonzero(fates == number).tolist()
        random.Random(f"{seed}/{band.name}").shuffle(positions)
        left[positions[int(unit * band.share + 1e-9) :]] = _SURPLUS
    return left


def ranks(measures: NDArray[np.float64], order: Order, seed: int) -> NDArray[np.int64]:
    """The place of each row in the order; rows without a measure (NaN) come last, equal ones stay as they were."""
    count = len(measures)
    if order is Order.SOURCE:
        places = list(range(count))
    elif order is Order.SHUFFLED:
        places = list(range(count))
        random.Random(f"{seed}/order").shuffle(places)
    else:
        sign = -1.0 if order is Order.EASY_FIRST else 1.0
        places = np.argsort(sign * measures, kind="stable").tolist()  # NaN sorts last
    found = np.empty(count, dtype=np.int64)
    found[places] = np.arange(count)
    return found


class Curriculum:
    """Bands, mix and order of rows by a measure that they have; a stage that asks nobody."""

    def __init__(self, spec: CurriculumStage, place: Place) -> None:
        self.name = place.name
        self._spec, self._seed = spec, place.seed
        self._fates: NDArray[np.int64]  # by place in the new order
        self._ranks: NDArray[np.int64]  # by place in the source

    def prepare(self, work: StageWork) -> None:
        """Look at every row's measure, and settle its fate and place."""
        values = [measure(row, self._spec.by) for row in work.build.watched(work.rows())]
        fates = np.array([band_of(value, self._spec.bands) for value in values], dtype=np.int64)
        fates = mixed(fates, self._spec.bands, self._seed)
        measures = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        self._ranks = ranks(measures, self._spec.order, self._seed)
        self._fates = np.empty_like(fates)
        self._fates[self._ranks] = fates

    def reordered(self, work: StageWork) -> Iterator[ProblemRow]:
        """The rows in the order of the curriculum."""
        if self._spec.order is Order.SOURCE:
            return work.rows()
        return reordered(work.rows(), self._ranks, work.folder / "order")

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row, unless it is in no band, one too many in its band, or has no measure; `position` is the new one."""
        fate, value = int(self._fates[position]), measure(row, self._spec.by)
        if fate == _UNMEASURED and not self._spec.keep_unmeasured:
            tally.drop("Unmeasured", row, f"it has no {self._spec.by.value}: put the stage difficulty before this one")
        elif fate == _IN_NO_BAND:
            tally.drop("InNoBand", row, f"its {self._spec.by.value} is {value:.1%}")
        elif fate == _SURPLUS:
            tally.drop("Surplus", row, f"its band has more than its share ({self._spec.by.value} {value:.1%})")
        else:
            name = self._spec.bands[fate].name if self._spec.bands and fate >= 0 else ""
            tally.counts[f"band {name}" if name else "kept"] += 1
            return row
        return None
