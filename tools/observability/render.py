"""Draws every panel of every dashboard from a Prometheus, with the panel's own expressions, as one image a page.

`python -m tools.observability.render http://127.0.0.1:9090 OUT [--minutes 30]`; it also prints which panels have no
data and why that may be.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tools.observability.dashboards import DASHBOARDS
from tools.observability.model import Dashboard, Panel, Query
from tools.observability.prometheus import Prometheus
from tools.observability.promql import concrete

_INK, _PAPER, _GRID = "#d8d9da", "#111217", "#2c3235"
_COLOURS = (
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff780a",
    "#f2495c",
    "#b877d9",
    "#5794f2",
    "#96d98d",
    "#ffb357",
    "#ca95e5",
)
_MOST_NAMES = 14  # of lines in a legend, which would hide the panel


def legend(query: Query, labels: dict[str, str]) -> str:
    """What a line is called."""
    if not query.legend:
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found.group(1), ""), query.legend)


def _shown(value: float, unit: str) -> str:
    """The value as Grafana writes it in that unit."""
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    if unit == "s":
        return _seconds(value)
    if unit == "bytes":
        power = max(0, min(4, int(math.log(abs(value), 1024)))) if value else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if unit == "sci":
        return f"{value:.1e}"
    if unit == "reqps":
        return f"{value:.3g} req/s"
    return f"{value / 1000:.3g} K" if unit == "short" and abs(value) >= 1000 else f"{value:.4g}"


def _seconds(value: float) -> str:
    if 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if abs(value) < 120 else f"{value / 60:.3g} min"


def _draw(
    axes: Axes, panel: Panel, lines: list[tuple[str, list[tuple[float, float]]]], start: float, end: float
) -> None:
    axes.set_facecolor("#181b1f")
    axes.set_title(panel.title, color=_INK, fontsize=9, loc="center" if panel.draw == "stat" else "left")
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    axes.tick_params(which="both", colors=_INK, labelsize=7)
    if panel.draw == "stat":
        axes.set_axis_off()
        last = [points[-1][1] for _, points in lines if points]
        text = _shown(last[-1], panel.unit) if last else f"no data\n{panel.needs}"
        size = 17 if last else 9
        axes.text(0.5, 0.45, text, ha="center", va="center", color=_COLOURS[0] if last else "#888", fontsize=size)
        return
    if not lines:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, f"no data\n{panel.needs}", ha="center", va="center", color="#888", transform=axes.transAxes)
        return
    axes.grid(color=_GRID, linewidth=0.5)
    for number, (name, told) in enumerate(lines):
        points = _with_gaps(told, longest=(end - start) / 50)
        times = [_moment(moment) for moment, _ in points]
        marker = "." if len(told) <= 3 else ""
        values = [value for _, value in points]
        axes.plot(times, values, color=_COLOURS[number % len(_COLOURS)], label=name, lw=1.2, marker=marker)
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlim(_moment(start), _moment(end))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _shown(value, panel.unit)))
    if len(lines) <= _MOST_NAMES:
        axes.legend(fontsize=6, facecolor="#181b1f", edgecolor=_GRID, labelcolor=_INK, loc="best", ncol=2)


def _with_gaps(points: list[tuple[float, float]], longest: float) -> list[tuple[float, float]]:
    """The points with a NaN wherever a line would bridge more seconds than ``longest``."""
    found = points[:1]
    for before, point in pairwise(points):
        if point[0] - before[0] > longest:
            found.append((before[0], math.nan))
        found.append(point)
    return found


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds)


def lines_of(panel: Panel, source: Prometheus, start: float, end: float) -> list[tuple[str, list[tuple[float, float]]]]:
    """Name and (unix seconds, value) of each line of a panel; finite values only."""
    found = []
    step = max(1.0, (end - start) / 300)
    for query in panel.queries:
        for item in source.series(concrete(query.expression), start, end, step):
            points = [(float(moment), float(value)) for moment, value in item["values"]]
            points = [point for point in points if math.isfinite(point[1])]
            if points:
                found.append((legend(query, item["metric"]), points))
    return found


def _rows(dashboard: Dashboard, draw: str, columns: int) -> list[list[Panel]]:
    """The page's numbers, or its charts, in lines of so many."""
    panels = [panel for panel in dashboard.panels() if (panel.draw == "stat") == (draw == "stat")]
    return [panels[first : first + columns] for first in range(0, len(panels), columns)]


def page(dashboard: Dashboard, source: Prometheus, start: float, end: float, path: Path) -> list[Panel]:
    """Draw one dashboard; the panels without data."""
    rows = [row for row in (_rows(dashboard, "stat", 6) + _rows(dashboard, "", 3)) if row]
    heights = [1.1 if row[0].draw == "stat" else 2.5 for row in rows]
    tall = 1.2 * sum(heights) + 1.2
    figure = plt.figure(figsize=(15, tall), facecolor=_PAPER)
    empty = []
    for strip, row in zip(figure.add_gridspec(len(rows), 1, height_ratios=heights, hspace=0.35), rows, strict=True):
        cells = strip.subgridspec(1, 6 if row[0].draw == "stat" else 3, wspace=0.2)
        for cell, panel in zip(cells, row, strict=False):
            lines = lines_of(panel, source, start, end)
            if not lines:
                empty.append(panel)
            _draw(figure.add_subplot(cell), panel, lines, start, end)
    figure.suptitle(dashboard.title, color=_INK, fontsize=13, x=0.02, y=1 - 0.15 / tall, ha="left", va="top")
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.3 / (sum(heights) + 0.5), top=1 - 0.5 / (sum(heights) + 0.5))
    figure.savefig(path, dpi=80, facecolor=_PAPER)
    plt.close(figure)
    return empty


def main() -> int:
    """Draw every page into a folder."""
    parser = argparse.ArgumentParser(prog="python -m tools.observability.render", description=__doc__)
    parser.add_argument("url", help="address of Prometheus")
    parser.add_argument("out", type=Path, help="folder for the images")
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    for dashboard in DASHBOARDS:
        path = arguments.out / f"{dashboard.uid}.png"
        empty = page(dashboard, Prometheus(arguments.url), end - 60 * arguments.minutes, end, path)
        print(f"{path}: {len(dashboard.panels()) - len(empty)} of {len(dashboard.panels())} panels have data")
        for panel in empty:
            print(f"  no data: {panel.title} (needs {panel.needs or 'nothing: look into it'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
