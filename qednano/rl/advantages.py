"""Rewards of a group to advantages. A *group* is G completions of one problem; r is its rewards.

| kind        | advantage of sample i                    | source |
|-------------|------------------------------------------|--------|
| MeanCentred | r_i - mean(r)                            | Dr. GRPO, arXiv 2503.20783; QED-Nano, arXiv 2604.04898 |
| LeaveOneOut | r_i - mean of the other G-1 rewards      | RLOO, arXiv 2402.14740; = G/(G-1) times MeanCentred |
| StdScaled   | (r_i - mean(r)) / (std(r) + 1e-6)        | GRPO, arXiv 2402.03300 (population std over the group) |
| BatchScaled | (r_i - mean(r)) / (std of all centred rewards of the batch + 1e-6) | REINFORCE++, arXiv 2501.03262 |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qednano.errors import DataError

EPSILON = 1e-6


def advantages(rewards: Sequence[Sequence[float]], kind: str) -> list[list[float]]:
    """Advantages of a batch of groups, shaped as `rewards` (groups may differ in size).

    A group of one has nothing to compare itself with: its advantage is 0. Raises DataError for an empty group or a
    reward that is not finite, ValueError for an unknown kind.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in rewards]
    for number, group in enumerate(groups):
        if group.size == 0 or not np.isfinite(group).all():
            raise DataError(f"group {number} of the batch has rewards {group.tolist()}; each must be a finite number")
    centred = [group - group.mean() for group in groups]
    match kind:
        case "MeanCentred":
            scaled = centred
        case "LeaveOneOut":
            scaled = [group * (group.size / max(1, group.size - 1)) for group in centred]
        case "StdScaled":
            scaled = [group / (group.std() + EPSILON) for group in centred]
        case "BatchScaled":
            spread = np.concatenate(centred).std() + EPSILON if centred else 1.0
            scaled = [group / spread for group in centred]
        case _:
            raise ValueError(f"unknown advantage {kind!r}")
    return [group.tolist() for group in scaled]
