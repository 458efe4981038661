"""From a grade to the reward that is learned from: flattening, length discount, penalties for overlong completions.

In this order, each off by default. A cut completion is one that the token limit ended.

| option          | reward                                                        | source |
|-----------------|---------------------------------------------------------------|--------|
| flattenPartial  | scores from 1 to 5 count as 1                                 | QED-Nano, arXiv 2604.04898 |
| lengthDiscount  | times discount ** tokens                                      | QED-Nano |
| Penalty         | 0 when cut                                                    | |
| SoftPenalty     | minus penalty * max(0, tokens - (limit - buffer)) / buffer    | DAPO, arXiv 2503.14476 |
"""

from __future__ import annotations

from dataclasses import dataclass

from qednano.api.rlrun import Overlong
from qednano.grading.interface import FULL_SCORE

_FLATTENED = 5.5  # scores from 1 to below this; votes may average to halves


@dataclass(frozen=True)
class RewardShaping:
    """Options of the table above; `limit` and `buffer` in tokens."""

    overlong: Overlong = Overlong.NONE
    limit: int = 0
    buffer: int = 0
    penalty: float = 1.0
    discount: float = 1.0
    flatten_partial: bool = False


def shaped_reward(score: float, tokens: int, cut: bool, shaping: RewardShaping) -> float:
    """The reward of a completion of so many tokens with this score (0 to 7)."""
    if shaping.flatten_partial and 1 <= score < _FLATTENED:
        score = 1.0
    reward = score / FULL_SCORE * shaping.discount**tokens
    if shaping.overlong is Overlong.PENALTY and cut:
        return 0.0
    if shaping.overlong is Overlong.SOFT_PENALTY:
        over = min(shaping.buffer, max(0, tokens - (shaping.limit - shaping.buffer)))
        reward -= shaping.penalty * over / shaping.buffer
    return reward
