"""Which row goes to which split: drawn by a keyed hash of the problem, so no problem is in two and order is no bias.

Rows of one problem, in whatever wording, are a group, and a group is drawn for one split as a whole. Hashes are all
that is kept of the rows: 18 bytes a row while they are read, and about 180 in all while the splits are drawn.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qednano.data.forest import Forest
from qednano.errors import DataError


def normalised(problem: str) -> str:
    """The text by which two problems are the same: compatibility forms, letter case and spacing don't matter."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", problem).casefold()).strip()


def keyed_hash(text: str, seed: int) -> int:
    """64 bits of a keyed hash; the seed is the key."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest(), "big")


@dataclass(frozen=True)
class Wanted:
    """What a split asks for: a number of rows, a share of all, or (both None) all that the others leave."""

    name: str
    count: int | None = None
    percent: int | None = None
    held_out: bool = False


@dataclass
class _Need:
    """What one split still needs: of each source so many rows, or of all together."""

    left: dict[int, int]
    of_each: bool

    def takes(self, source: int) -> bool:
        return self.left.get(source if self.of_each else 0, 0) > 0

    def take(self, source: int) -> None:
        self.left[source if self.of_each else 0] -= 1

    @property
    def met(self) -> bool:
        return not any(self.left.values())


class Ledger:
    """Hashes of problems and ids, and where each came from, in the order of the rows."""

    def __init__(self, seed: int, sources: Sequence[str] = ("",)) -> None:
        self.seed = seed
        self.sources = list(sources)
        self._problems = array("Q")
        self._ids = array("Q")
        self._from = array("B")
        self._held_out = array("B")

    def add(self, problem: str, identifier: str, source: str = "", held_out: bool = False) -> None:
        """Enter the next row."""
        self._problems.append(keyed_hash(normalised(problem), self.seed))
        self._ids.append(keyed_hash(identifier, self.seed))
        self._from.append(self.sources.index(source) if source in self.sources else 0)
        self._held_out.append(held_out)

    def __len__(self) -> int:
        return len(self._problems)

    def select(
        self,
        splits: Sequence[Wanted],
        *,
        groups: Sequence[Sequence[int]] = (),
        weights: Mapping[str, int] | None = None,
    ) -> list[NDArray[np.int64]]:
        """For each split the positions (from 0, ascending) of its rows.

        A repeated problem counts once, where it first is; `groups` are positions of rows that are one problem. Groups
        are drawn in the order of their hashes for the splits in theirs, the one that takes the rest last; rows of a
        group that its split has no room for are in none. With `weights`, each source gives its share of a split.
        Raises DataError when there are too few rows, or when two problems have one id.
        """
        texts = np.frombuffer(self._problems, dtype=np.uint64)
        hashes, first, inverse = np.unique(texts, return_index=True, return_inverse=True)
        self._check_enough(splits, len(hashes))
        self._check_ids(np.sort(first))
        forest = Forest(len(hashes))
        for group in groups:
            for position in group:
                forest.join(int(inverse[group[0]]), int(inverse[position]))
        order, starts = _drawn(hashes, first.astype(np.int64), forest)
        taken = np.zeros(len(starts) - 1, dtype=bool)
        found: dict[str, NDArray[np.int64]] = {}
        for split in sorted(splits, key=lambda split: split.count is None and split.percent is None):
            found[split.name] = self._fill(split, len(hashes), order, starts, taken, weights)
        return [found[split.name] for split in splits]

    def _fill(
        self,
        split: Wanted,
        problems: int,
        order: NDArray[np.int64],
        starts: NDArray[np.int64],
        taken: NDArray[np.bool_],
        weights: Mapping[str, int] | None,
    ) -> NDArray[np.int64]:
        need = self._need(split, problems, weights)
        chosen: list[int] = []
        for group in np.flatnonzero(~taken).tolist():
            if need.met:
                break
            for position in order[starts[group] : starts[group + 1]].tolist():
                if bool(self._held_out[position]) == split.held_out and need.takes(self._from[position]):
                    need.take(self._from[position])
                    chosen.append(position)
                    taken[group] = True
        takes_rest = split.count is None and split.percent is None
        if not (need.met or takes_rest) or (split.count is None and not chosen):
            raise self._short(split, need, len(chosen))
        return np.sort(np.array(chosen, dtype=np.int64))

    def _need(self, split: Wanted, problems: int, weights: Mapping[str, int] | None) -> _Need:
        count = split.count
        if count is None:
            count = problems * split.percent // 100 if split.percent is not None else problems
        if not weights or (split.count is None and split.percent is None):
            return _Need({0: count}, False)
        return _Need(
            dict(enumerate(shares(count, [weights.get(source, 0) for source in self.sources]))),
            True,
        )

    def _short(self, split: Wanted, need: _Need, got: int) -> DataError:
        missing = sum(need.left.values())
        if need.of_each:
            source, lacks = next((source, lacks) for source, lacks in need.left.items() if lacks)
            return DataError(
                f"source {self.sources[source]} has {lacks} problems too few for its weight in split {split.name}: "
                "lower its weight, or the problems of the splits"
            )
        return DataError(
            f"split {split.name} gets {got} of {got + missing} problems, after those before it and with near-"
            "duplicates kept together: ask for fewer in spec.splits"
        )

    def _check_enough(self, splits: Sequence[Wanted], problems: int) -> None:
        wanted = sum(split.count or 0 for split in splits)
        if problems < wanted:
            raise DataError(
                f"the splits ask for {wanted} problems, the source has {problems} different ones "
                f"in {len(self)} rows: ask for fewer in spec.splits"
            )

    def _check_ids(self, positions: NDArray[np.int64]) -> None:
        ids = np.frombuffer(self._ids, dtype=np.uint64)[positions]
        values, counts = np.unique(ids, return_counts=True)
        repeated = values[counts > 1]
        if len(repeated):
            one, other = positions[ids == repeated[0]][:2]
            raise DataError(
                f"records {one + 1} and {other + 1} of the source are different problems with the same id: "
                "give each its own, or set columns.id to an empty text"
            )


def _drawn(
    hashes: NDArray[np.uint64], first: NDArray[np.int64], forest: Forest
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions group by group in the order of the draw, and where each group starts in them (and the last ends).

    Texts come sorted by hash, and a group's root is its first text, so roots are in the order of the draw, whatever the
    order of the rows.
    """
    roots = forest.roots()
    ranked = np.argsort(roots, kind="stable")
    roots = roots[ranked]
    edges = np.flatnonzero(np.r_[True, roots[1:] != roots[:-1], True]) if len(roots) else np.array([0])
    return first[ranked], edges


def shares(count: int, weights: Sequence[int]) -> list[int]:
    """`count` cut in proportion to the weights, which aren't all 0; what rounding leaves goes to the largest rests."""
    total = sum(weights)
    whole = [count * weight // total for weight in weights]
    order = sorted(range(len(weights)), key=lambda place: (-(count * weights[place] % total), place))
    for place in order[: count - sum(whole)]:
        whole[place] += 1
    return whole
