"""In which order problems are drawn: every epoch a fresh seeded permutation, addressed by one running number.

With a running pass rate, problems that are passed always or never are mostly left out: they teach nothing, since all
samples of their groups are rewarded alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qednano.artifacts import write_atomic
from qednano.data.schema import ProblemRow
from qednano.errors import DataError


class PassRates:
    """Running pass rates by problem id: `memory` (0..1) of what was known, the rest of the newest group.

    The file is rewritten by `save` and read at start, so that a restarted actor knows what its predecessor did.
    """

    def __init__(self, known: Mapping[str, float], file: Path, memory: float = 0.5) -> None:
        self._rates, self._file, self._memory = dict(known), file, memory
        if file.exists():
            self._rates |= {str(name): float(rate) for name, rate in json.loads(file.read_bytes()).items()}
        self._changed = False

    def get(self, problem_id: str) -> float | None:
        """The pass rate; None for a problem that was never tried."""
        return self._rates.get(problem_id)

    def update(self, problem_id: str, passed: Sequence[bool]) -> None:
        """Take in a group's outcome; one without graded samples says nothing."""
        if not passed:
            return
        now, before = sum(passed) / len(passed), self._rates.get(problem_id)
        self._rates[problem_id] = now if before is None else self._memory * before + (1 - self._memory) * now
        self._changed = True

    def save(self) -> None:
        """Write what changed."""
        if self._changed:
            self._changed = False  # first: what changes meanwhile is for the next time
            write_atomic(self._file, json.dumps(self._rates))


class Curriculum:
    """Problem number `ordinal` (0, 1, 2, …) of an endless seeded sequence; the same for the same rows and seed.

    With `rates`, a number may be passed over: problems are wanted with probability max(`least`, 4 p (1 - p)), which is
    1 for a pass rate p of a half and `least` for 0 and 1; one that was never tried is always wanted.
    """

    def __init__(
        self, rows: Sequence[ProblemRow], seed: int, rates: PassRates | None = None, least: float = 0.1
    ) -> None:
        if not rows:
            raise DataError("the dataset has no problems; there is nothing to learn from")
        self._rows, self._seed = rows, seed
        self.rates, self._least = rates, least
        self._epoch, self._order = -1, list(range(len(rows)))

    def problem(self, ordinal: int) -> ProblemRow:
        """The problem of that number."""
        epoch, place = divmod(ordinal, len(self._rows))
        if epoch != self._epoch:
            self._order = list(range(len(self._rows)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._rows[self._order[place]]

    def wanted(self, ordinal: int) -> bool:
        """Whether the problem of that number is to be drawn, by what is known of it now."""
        rate = None if self.rates is None else self.rates.get(self.problem(ordinal).id)
        if rate is None:
            return True
        return random.Random(f"{self._seed}/wanted/{ordinal}").random() < max(self._least, 4 * rate * (1 - rate))


def group_id(ordinal: int) -> str:
    """The id of group number `ordinal`."""
    return f"{ordinal:08d}"


def undecided(decided: set[str]) -> Iterator[int]:
    """Numbers of groups that were neither published nor discarded before, in order, without end."""
    ordinal = 0
    while True:
        if group_id(ordinal) not in decided:
            yield ordinal
        ordinal += 1
