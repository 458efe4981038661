"""Draws every panel of every dashboard from a Prometheus, with the panel's own expressions, as one image a page.

`python -m tools.observability.render http://127.0.0.1:9090 OUT [--minutes 30]`; it also prints which panels have no
data and why that may be.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tools.observability.dashboards import DASHBOARDS
from tools.observability.model import Dashboard, Panel, Query
from tools.observability.prometheus import Prometheus

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


def concrete(expression: str, interval: str = "30s") -> str:
    """The expression with Grafana's variables filled in: everything, over a fixed interval."""
    values = {"$__rate_interval": interval, "$namespace": ".*", "$run": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def legend(query: Query, labels: dict[str, str]) -> str:
    """What a line is called."""
    if not query.legend:
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found.group(1), ""), query.legend)


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "s":
        return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"
    return f"{value:.4g}" if unit != "sci" else f"{value:.2e}"


def _draw(axes: Axes, panel: Panel, lines: list[tuple[str, list[tuple[float, float]]]]) -> None:
    axes.set_facecolor("#181b1f")
    axes.set_title(panel.title, color=_INK, fontsize=9, loc="center" if panel.draw == "stat" else "left")
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    axes.tick_params(colors=_INK, labelsize=7)
    if panel.draw == "stat":
        axes.set_axis_off()
        last = [points[-1][1] for _, points in lines if points]
        text = _shown(last[-1], panel.unit) if last else "no data"
        axes.text(0.5, 0.45, text, ha="center", va="center", color=_COLOURS[0] if last else "#888", fontsize=17)
        return
    axes.grid(color=_GRID, linewidth=0.5)
    if not lines:
        axes.text(0.5, 0.5, f"no data\n{panel.needs}", ha="center", va="center", color="#888", transform=axes.transAxes)
        return
    for number, (name, points) in enumerate(lines):
        times = [_moment(moment) for moment, _ in points]
        axes.plot(times, [value for _, value in points], color=_COLOURS[number % len(_COLOURS)], label=name, lw=1.2)
    if panel.log:
        axes.set_yscale("log")
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    if not panel.log:
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _shown(value, panel.unit)))
    axes.legend(fontsize=6, facecolor="#181b1f", edgecolor=_GRID, labelcolor=_INK, loc="best", ncol=2)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds)


def lines_of(panel: Panel, source: Prometheus, start: float, end: float) -> list[tuple[str, list[tuple[float, float]]]]:
    """Name and (unix seconds, value) of each line of a panel; finite values only."""
    found = []
    step = max(1.0, (end - start) / 300)
    for query in panel.queries:
        for item in source.series(concrete(query.expression), start, end, step):
            points = [(float(moment), float(value)) for moment, value in item["values"]]
            points = [point for point in points if point[1] == point[1] and abs(point[1]) != float("inf")]
            if points:
                found.append((legend(query, item["metric"]), points))
    return found


def page(dashboard: Dashboard, source: Prometheus, start: float, end: float, path: Path) -> list[Panel]:
    """Draw one dashboard; the panels without data."""
    panels = dashboard.panels()
    columns = 3
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(15, 2.5 * rows), squeeze=False, facecolor=_PAPER)
    empty = []
    for axes, panel in zip(grid.flat, panels, strict=False):
        lines = lines_of(panel, source, start, end)
        if not lines:
            empty.append(panel)
        _draw(axes, panel, lines)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(dashboard.title, color=_INK, fontsize=13, x=0.02, ha="left")
    figure.tight_layout(rect=(0, 0, 1, 0.98))
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
