"""Charts as numbers that templates draw in SVG; no styles, so that pages need no exception from their policy."""

from __future__ import annotations

import math
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
    return _frame() | {"lines": lines, "grid": grid, "ticks": [(place[k], f"k = {k}") for k in ks]}


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


def curve_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Scores over steps with their intervals: each curve's points have step, score, low and high (shares).

    None where there are fewer than two steps.
    """
    steps = sorted({point["step"] for points in curves.values() for point in points})
    if len(steps) < 2:
        return None
    every = [point for points in curves.values() for point in points]
    low = math.floor(10 * min(point["low"] for point in every))  # in tenths; the grid has a line at each
    high = max(math.ceil(10 * max(point["high"] for point in every)), low + 1)

    def x(step: float) -> float:
        return _MARGIN + (step - steps[0]) / (steps[-1] - steps[0]) * (_WIDTH - 2 * _MARGIN)

    def y(share: float) -> float:
        return _height((10 * share - low) / (high - low))

    lines = []
    for name, points in curves.items():
        ordered = sorted(points, key=lambda point: point["step"])
        places = [(x(point["step"]), y(point["score"])) for point in ordered]
        band = [(x(point["step"]), y(point["high"])) for point in ordered]
        band += [(x(point["step"]), y(point["low"])) for point in reversed(ordered)]
        lines.append({"name": name, "points": places, "line": _path(places), "band": _path(band)})
    grid = [(y(tenths / 10), f"{10 * tenths}%") for tenths in range(low, high + 1)]
    shown = steps if len(steps) <= 6 else [steps[round(number * (len(steps) - 1) / 5)] for number in range(6)]
    return _frame() | {"lines": lines, "grid": grid, "ticks": [(x(step), f"{step:,}") for step in shown]}


def calibration_chart(graders: Sequence[Mapping[str, Any]], full: int) -> dict[str, Any]:
    """For each score that a grader gave, the mean score that people gave; dots grow with the number of proofs."""
    most = max((point["count"] for grader in graders for point in grader["calibration"]), default=1)

    def place(given: float, human: float) -> tuple[float, float]:
        return _MARGIN + given / full * (_WIDTH - 2 * _MARGIN), _height(human / full)

    lines = []
    for grader in graders:
        found = [(*place(point["score"], point["human_mean"]), point["count"]) for point in grader["calibration"]]
        dots = [(x, y, 2.5 + 5 * math.sqrt(count / most)) for x, y, count in found]
        lines.append({"name": grader["name"], "dots": dots, "line": _path([(x, y) for x, y, _ in found])})
    grid = [(place(0, score)[1], str(score)) for score in range(full + 1)]
    ticks = [(place(score, 0)[0], str(score)) for score in range(full + 1)]
    return _frame() | {"lines": lines, "grid": grid, "ticks": ticks, "ideal": _path([place(0, 0), place(full, full)])}


def _frame() -> dict[str, float]:
    return {"width": _WIDTH, "height": _HEIGHT, "left": _MARGIN, "right": _WIDTH - _MARGIN}
