"""The template engine of all pages: escapes by itself, refuses unknown names, and words numbers the same way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qednano.grading.interface import FULL_SCORE
from qednano.pages.prose import opening, to_html

_HERE = Path(__file__).parent


def environment(*folders: Path) -> Environment:
    """Templates of these folders; they may import the macros of this package's parts.html.j2."""
    made = Environment(
        loader=FileSystemLoader([*folders, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": percent,
        "points": points,
        "thousands": thousands,
        "money": money,
        "prose": to_html,
        "opening": opening,
        "grade": grade,
        "shade": shade,
    }
    made.globals["full"] = FULL_SCORE
    return made


def unknown(value: Any) -> bool:
    """Whether a number is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def percent(share: float | None) -> str:
    """0.423 → 42.3 %."""
    return "–" if share is None or unknown(share) else f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Percentage points with a sign; a true minus."""
    told = f"{100 * share:+.1f}"
    return "0.0" if told in ("+0.0", "-0.0") else told.replace("-", "−")


def thousands(value: float | None) -> str:
    """1234567 → 1,234,567."""
    return "–" if value is None or unknown(value) else f"{value:,.0f}"


def money(value: float | None) -> str:
    """A price in the currency that the endpoints' prices are in; – where it is unknown."""
    if value is None or unknown(value):
        return "–"
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}".rstrip("0").rstrip(".") or "0"


def grade(score: float | None) -> str:
    """A score as people write it: 7, 5.5; – for none."""
    return "–" if score is None or unknown(score) else f"{score:.3g}"


def shade(score: float | None) -> str:
    """The CSS class of a score's colour."""
    return "" if score is None or unknown(score) else f"s{min(FULL_SCORE, max(0, int(score)))}"
