"""Which of n things belong together, when it is told pair by pair (union-find)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Forest:
    """Things from 0 to n - 1, each in a group of its own at first; a group is known by its smallest member."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def root(self, one: int) -> int:
        """The smallest member of its group."""
        parents = self._parents
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    def join(self, one: int, other: int) -> None:
        """Both groups become one."""
        first, second = self.root(one), self.root(other)
        self._parents[max(first, second)] = min(first, second)

    def roots(self) -> NDArray[np.int64]:
        """The root of each."""
        return np.fromiter(map(self.root, range(len(self._parents))), dtype=np.int64, count=len(self._parents))

    def groups(self) -> list[list[int]]:
        """The groups of two or more, each ascending, by their first."""
        members: dict[int, list[int]] = {}
        for one in range(len(self._parents)):
            root = self.root(one)
            if root != one:
                members.setdefault(root, [root]).append(one)
        return [members[root] for root in sorted(members)]
