"""What answers cost. Money is Decimal throughout, and an unknown price stays unknown instead of becoming 0."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from qednano.api.language import Price

FREE = Price()
"""The price of the run's own servers: their GPUs are counted elsewhere, not by the token."""


def cost_of(price: Price | None, prompt_tokens: int, completion_tokens: int) -> Decimal | None:
    """Money for one answer, exact; None when the price is unknown."""
    if price is None:
        return None
    total = price.input_per_million * prompt_tokens + price.output_per_million * completion_tokens
    return total.scaleb(-6)


class PriceTable:
    """The price of each model by its field of the spec, and which are unknown."""

    def __init__(self, prices: Mapping[str, Price | None]) -> None:
        self._prices = dict(prices)

    def of(self, field: str) -> Price | None:
        """The price; None when it is unknown."""
        return self._prices[field]

    @property
    def unknown(self) -> list[str]:
        """Fields whose model has no known price, in order."""
        return sorted(field for field, price in self._prices.items() if price is None)
