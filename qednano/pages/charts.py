"""Charts as numbers that templates draw in SVG; no styles, so that pages need no exception from their policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 520.0, 220.0, 40.0


def pass_chart(models: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Lines of pass@k over k (log scale) with their intervals, of `models` as in scores.json; None for a single k."""
    by_model = [(model["name"], {int(k): value for k, value in model.get("pass_at_k", {}).items()}) for model in models]
    ks = sorted({k for _, values in by_model for k in values})
    if len(ks) < 2:
        return None
    place = {k: _MARGIN + number / (len(ks) - 1) * (_WIDTH - 2 * _MARGIN) for number, k in enumerate(ks)}
    lines = []
    for name, values in by_model:
        points = [(place[k], _height(value["mean"])) for k, value in sorted(values.items())]
        band = [(place[k], _height(value["high"])) for k, value in sorted(values.items())]
        band += [(place[k], _height(value["low"])) for k, value in sorted(values.items(), reverse=True)]
        lines.append({"name": name, "points": points, "line": _path(points), "band": _path(band)})
    grid = [(_height(share), f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    size = {"width": _WIDTH, "height": _HEIGHT, "left": _MARGIN, "right": _WIDTH - _MARGIN}
    return size | {"lines": lines, "grid": grid, "ticks": [(place[k], f"k = {k}") for k in ks]}


def _height(share: float) -> float:
    return _MARGIN / 2 + (1 - share) * (_HEIGHT - 1.25 * _MARGIN)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def difference_chart(differences: Sequence[float]) -> dict[str, Any]:
    """A bar for each problem, from the largest loss to the largest gain; `differences` are shares, -1 to 1."""
    ordered = sorted(differences)
    step = (_WIDTH - 2 * _MARGIN) / max(1, len(ordered))
    middle, scale = _HEIGHT / 2, (_HEIGHT - _MARGIN) / 2
    bars = [
        {
            "x": _MARGIN + number * step,
            "width": max(0.4, step * 0.85),
            "y": middle - max(0.0, value) * scale,
            "height": max(0.8, abs(value) * scale),
            "kind": "fullf" if value > 1e-12 else "nonef" if value < -1e-12 else "equal",
        }
        for number, value in enumerate(ordered)
    ]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _MARGIN,
        "right": _WIDTH - _MARGIN,
        "middle": middle,
        "bars": bars,
    }
