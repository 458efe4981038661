"""What gradings cost, out of the details that they left; mixtures keep a bill for each of their parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GradingCost:
    """Tokens in and out, and money, None as soon as one price is unknown."""

    tokens_in: int
    tokens_out: int
    cost: float | None

    @property
    def tokens(self) -> int:
        """In and out together."""
        return self.tokens_in + self.tokens_out


def cost_of(details: Iterable[str]) -> GradingCost:
    """The sum over gradings, each by the JSON of its details. A grader that asks no model costs nothing."""
    tokens_in = tokens_out = 0
    cost: float | None = 0.0
    for text in details:
        for usage in _usages(json.loads(text or "{}")):
            tokens_in += usage.get("prompt_tokens", 0)
            tokens_out += usage.get("completion_tokens", 0)
            money = usage.get("cost")
            cost = None if cost is None or money is None else cost + money
    return GradingCost(tokens_in, tokens_out, cost)


def usage_alone(details: str) -> str:
    """Of the JSON of a grade's details what `cost_of` needs."""
    found = list(_usages(json.loads(details or "{}")))
    if not found:
        return "{}"
    return json.dumps({"parts": {str(number): {"usage": usage} for number, usage in enumerate(found)}})


def _usages(details: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(details, dict):
        return
    if isinstance(usage := details.get("usage"), dict):
        yield usage
    if isinstance(parts := details.get("parts"), dict):
        for part in parts.values():
            yield from _usages(part)
