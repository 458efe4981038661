"""Which rows are the same problem: exactly, up to notation, or nearly; and which one of them stays.

Near duplicates are found by MinHash with locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998) over the
statements' normal form. A candidate pair counts only if it agrees in what makes a problem (numbers, signs, contrasting
words) and its exact Jaccard similarity is high enough. What is held of a row are hashes: about 1 kB, whatever its text.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from qednano.data.forest import Forest
from qednano.data.form import Form, contradict
from qednano.data.schema import ProblemRow

PERMUTATIONS = 128
BAND = 4  # rows of the signature in one band: 32 bands find 99 % of pairs at a similarity of 0.6
_SMALL_BUCKET = 32  # so many rows are compared with one another; larger buckets only with their neighbours
_BATCH = 4096
_RARE = 3  # numbers from which on agreement in them is evidence


@dataclass(frozen=True)
class Thresholds:
    """Least Jaccard similarity of two normal forms, without and with at least three telling numbers in common."""

    plain: float = 0.7
    with_numbers: float = 0.4


@dataclass(frozen=True)
class Cluster:
    """Rows (positions in the order of adding) that are one problem: the one that stays, why, and the others."""

    kept: int
    dropped: tuple[int, ...]
    why: str


@dataclass
class Index:
    """Takes the normal form of every row once, in order, and then tells the clusters."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    _shingles: array[int] = field(default_factory=lambda: array("I"))
    _ends: array[int] = field(default_factory=lambda: array("Q", [0]))
    _signatures: array[int] = field(default_factory=lambda: array("I"))
    _telling: array[int] = field(default_factory=lambda: array("B"))
    _contrasts: list[int] = field(default_factory=list)

    def add(self, form: Form) -> None:
        """Enter the next row."""
        self._shingles.extend(sorted(form.shingles))
        self._ends.append(len(self._shingles))
        self._signatures.append(form.signature)
        self._telling.append(min(255, _telling(form)))
        self._contrasts.append(form.contrasts)

    def __len__(self) -> int:
        return len(self._signatures)

    def groups(self, check_stop: Callable[[], None] = lambda: None) -> list[list[int]]:
        """The positions of each set of two or more rows that are one problem, ascending, by their first."""
        forest = Forest(len(self))
        for bucket in self._buckets(check_stop):
            for one, other in _pairs(bucket):
                if forest.root(one) != forest.root(other) and self._same(one, other):
                    forest.join(one, other)
        return forest.groups()

    def _row(self, position: int) -> NDArray[np.uint32]:
        return np.frombuffer(self._shingles, dtype=np.uint32)[self._ends[position] : self._ends[position + 1]]

    def _same(self, one: int, other: int) -> bool:
        if self._signatures[one] != self._signatures[other] or contradict(self._contrasts[one], self._contrasts[other]):
            return False
        first, second = self._row(one), self._row(other)
        shared = len(np.intersect1d(first, second, assume_unique=True))
        union = len(first) + len(second) - shared
        told = self._telling[one] >= _RARE
        return shared >= union * (self.thresholds.with_numbers if told else self.thresholds.plain)

    def _buckets(self, check_stop: Callable[[], None]) -> Iterator[list[int]]:
        """Rows that may be one problem: equal in a band of their MinHash, or in all their telling numbers."""
        signatures = np.frombuffer(self._signatures, dtype=np.uint32).astype(np.uint64)
        telling = np.frombuffer(self._telling, dtype=np.uint8) >= _RARE
        yield from _equal_runs(signatures, np.flatnonzero(telling))
        digests = self._digests(check_stop)
        everyone = np.arange(len(self))
        for band in range(PERMUTATIONS // BAND):
            check_stop()
            keys = signatures.copy()
            for column in range(band * BAND, (band + 1) * BAND):
                keys = (keys ^ digests[:, column]) * np.uint64(0x9E3779B97F4A7C15)
                keys ^= keys >> np.uint64(29)
            yield from _equal_runs(keys, everyone)

    def _digests(self, check_stop: Callable[[], None]) -> NDArray[np.uint32]:
        """MinHash signatures, one row each, PERMUTATIONS wide."""
        found = np.empty((len(self), PERMUTATIONS), dtype=np.uint32)
        shingles, ends = np.frombuffer(self._shingles, dtype=np.uint32), np.frombuffer(self._ends, dtype=np.uint64)
        for start in range(0, len(self), _BATCH):
            check_stop()
            stop = min(start + _BATCH, len(self))
            part = shingles[int(ends[start]) : int(ends[stop])].astype(np.uint64)
            offsets = (ends[start : stop + 1] - ends[start]).tolist()
            matrix = RMinHash.digest_matrix_from_flat_token_hashes(part, offsets, PERMUTATIONS, 0)
            found[start:stop] = matrix.to_rows()
        return found


def _telling(form: Form) -> int:
    """How many numbers above two the statement has: those that few statements share."""
    return sum(1 for item in form.content if item[0].isdigit() and item not in ("0", "1", "2"))


def _equal_runs(keys: NDArray[np.uint64], positions: NDArray[np.int64]) -> Iterator[list[int]]:
    """The positions that share a key, for every key that at least two share; ascending."""
    order = positions[np.argsort(keys[positions], kind="stable")]
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.array([], dtype=np.int64)
    ends = np.r_[starts[1:], len(ordered)]
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield order[start:end].tolist()


def _pairs(bucket: Sequence[int]) -> Iterator[tuple[int, int]]:
    """All pairs of a small bucket; of a large one each row with the first and with the next ones."""
    for number, one in enumerate(bucket):
        ahead = bucket[number + 1 : number + 1 + _SMALL_BUCKET]
        yield from ((one, other) for other in ahead)
        if len(bucket) > _SMALL_BUCKET and number > _SMALL_BUCKET:
            yield bucket[0], one


@dataclass(frozen=True)
class Merit:
    """What a row has that its duplicates may lack; more is better, and so is a shorter statement."""

    solutions: int
    reference: bool
    rubric: bool
    answer: bool
    length: int

    @classmethod
    def of(cls, row: ProblemRow) -> Merit:
        """The merit of one row."""
        return cls(len(row.solutions), bool(row.reference), bool(row.rubric), bool(row.answer), len(row.problem))


_REASONS: list[tuple[str, Callable[[Merit], int]]] = [
    ("it has an official solution", lambda merit: merit.reference),
    ("it has a marking scheme", lambda merit: merit.rubric),
    ("it has more solutions", lambda merit: merit.solutions),
    ("it has a final answer", lambda merit: merit.answer),
    ("its statement is the shortest, so it has the least around it", lambda merit: -merit.length),
]


def choose(positions: Sequence[int], merits: Sequence[Merit]) -> Cluster:
    """The best of some equal rows and the first reason that sets it apart; on a tie, the first row."""
    ranks = [tuple(-value(merit) for _, value in _REASONS) for merit in merits]
    order = sorted(range(len(positions)), key=lambda index: (ranks[index], positions[index]))
    best, second = ranks[order[0]], ranks[order[1]]
    differing = [reason for (reason, _), one, other in zip(_REASONS, best, second, strict=True) if one != other]
    kept = positions[order[0]]
    dropped = tuple(sorted(position for position in positions if position != kept))
    return Cluster(kept, dropped, differing[0] if differing else "it comes first")


def clusters(groups: Iterable[Sequence[int]], merits: Mapping[int, Merit]) -> list[Cluster]:
    """A cluster for every group; `merits` has every position that is in one."""
    return [choose(group, [merits[position] for position in group]) for group in groups]


def sizes(found: Iterable[Cluster]) -> dict[int, int]:
    """How many clusters there are of each size."""
    return dict(sorted(Counter(1 + len(cluster.dropped) for cluster in found).items()))
