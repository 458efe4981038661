"""In which order problems are drawn: every epoch a fresh seeded permutation, addressed by one running number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from qednano.data.schema import ProblemRow
from qednano.errors import DataError


class Curriculum:
    """Problem number `ordinal` (0, 1, 2, …) of an endless seeded sequence; the same for the same rows and seed."""

    def __init__(self, rows: Sequence[ProblemRow], seed: int) -> None:
        if not rows:
            raise DataError("the dataset has no problems; there is nothing to learn from")
        self._rows, self._seed = rows, seed
        self._epoch, self._order = -1, list(range(len(rows)))

    def problem(self, ordinal: int) -> ProblemRow:
        """The problem of that number."""
        epoch, place = divmod(ordinal, len(self._rows))
        if epoch != self._epoch:
            self._order = list(range(len(self._rows)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._rows[self._order[place]]


def group_id(ordinal: int) -> str:
    """The id of the group drawn for problem number `ordinal`."""
    return f"{ordinal:08d}"


def undecided(decided: set[str]) -> Iterator[int]:
    """Ordinals whose group was neither published nor discarded before, in order, without end."""
    ordinal = 0
    while True:
        if group_id(ordinal) not in decided:
            yield ordinal
        ordinal += 1
