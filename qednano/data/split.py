"""Which record goes to which split: drawn by a keyed hash of the problem, so no problem is in two and order is no bias.

Sixteen bytes a record are all that is kept of the source, so ten million records take 160 MB.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qednano.errors import DataError


def normalised(problem: str) -> str:
    """The text by which two problems are the same: compatibility forms, letter case and spacing don't matter."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", problem).casefold()).strip()


def keyed_hash(text: str, seed: int) -> int:
    """64 bits of a keyed hash; the seed is the key."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest(), "big")


class Ledger:
    """Hashes of problems and ids, in the order of the source."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._problems = array("Q")
        self._ids = array("Q")

    def add(self, problem: str, identifier: str) -> None:
        """Enter the next record."""
        self._problems.append(keyed_hash(normalised(problem), self.seed))
        self._ids.append(keyed_hash(identifier, self.seed))

    def __len__(self) -> int:
        return len(self._problems)

    def select(self, counts: Sequence[int]) -> list[NDArray[np.int64]]:
        """For each split the positions (from 0, ascending) of its records.

        Splits are filled in order from the records sorted by hash; a repeated problem counts once, where it first is.
        Raises DataError when the source has too few problems, or when two problems have one id.
        """
        hashes, first = np.unique(np.frombuffer(self._problems, dtype=np.uint64), return_index=True)
        if len(hashes) < sum(counts):
            raise DataError(
                f"the splits ask for {sum(counts)} problems, the source has {len(hashes)} different ones "
                f"in {len(self)} rows: ask for fewer in spec.splits"
            )
        self._check_ids(np.sort(first))
        ends = np.cumsum(counts)
        return [np.sort(first[end - count : end]).astype(np.int64) for count, end in zip(counts, ends, strict=True)]

    def _check_ids(self, positions: NDArray[np.int64]) -> None:
        ids = np.frombuffer(self._ids, dtype=np.uint64)[positions]
        values, counts = np.unique(ids, return_counts=True)
        repeated = values[counts > 1]
        if len(repeated):
            one, other = positions[ids == repeated[0]][:2]
            raise DataError(
                f"records {one + 1} and {other + 1} of the source are different problems with the same id: "
                "give each its own, or leave spec.columns.id empty"
            )
