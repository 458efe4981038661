"""The report of an evaluation: one HTML file that needs nothing else, no network and no scripts.

All text of models, problems and graders is escaped by the template engine; the page's own policy forbids scripts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qednano.data.schema import ProblemRow
from qednano.evals.scores import SampleRow, Scores, problem_means
from qednano.evals.statistics import Estimate
from qednano.grading.interface import FULL_SCORE

_CHART_WIDTH, _CHART_HEIGHT, _MARGIN = 520.0, 220.0, 40.0


@dataclass(frozen=True)
class ReportInput:
    """What the report is made of, besides the numbers."""

    name: str
    benchmark: str
    grader: str
    sampling: str
    problems: Sequence[ProblemRow]
    rows: Sequence[SampleRow]


@dataclass(frozen=True)
class Example:
    """One problem with the first sample of each model; `why` says by which rule it was chosen."""

    why: str
    problem: ProblemRow
    proofs: list[tuple[SampleRow, dict[str, Any]]]


def choose_examples(data: ReportInput, models: Sequence[str], of_each: int = 2) -> list[Example]:
    """Problems by rule, not by taste: largest gain over the last baseline, nearest to the median, lowest score."""
    means = {name: problem_means([row for row in data.rows if row.model == name]) for name in models}
    first, last = means[models[0]], means[models[-1]]
    shared = sorted(problem for problem in first if problem in last)
    by_score = sorted(shared, key=lambda problem: (first[problem], problem))
    middle = max(0, (len(by_score) - of_each) // 2)
    rules = []
    if len(models) > 1:
        gains = sorted(shared, key=lambda problem: (last[problem] - first[problem], problem))
        rules.append((f"largest gain of {models[0]} over {models[-1]}", gains))
    rules += [
        (f"{models[0]} scores near its median", by_score[middle:]),
        (f"{models[0]} scores lowest", by_score),
    ]
    rows = {row.key: row for row in data.rows}
    problems = {problem.id: problem for problem in data.problems}
    chosen: dict[str, str] = {}
    for why, ranked in rules:
        fresh = [problem for problem in ranked if problem not in chosen][:of_each]
        chosen |= dict.fromkeys(fresh, why)
    return [
        Example(why, problems[identity], [(row, _details(row)) for row in _first_samples(rows, models, identity)])
        for identity, why in chosen.items()
        if identity in problems
    ]


def _first_samples(
    rows: Mapping[tuple[str, str, int], SampleRow], models: Sequence[str], problem: str
) -> list[SampleRow]:
    return [row for name in models if (row := rows.get((name, problem, 0)))]


def render(data: ReportInput, scores: Scores) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "thousands": _thousands}
    names = [model.name for model in scores.models]
    return environment.get_template("report.html.j2").render(
        data=data,
        scores=scores,
        headline=headline(scores),
        examples=choose_examples(data, names),
        colours={name: number % 6 for number, name in enumerate(names)},
        chart=pass_chart(scores),
        full=FULL_SCORE,
    )


def headline(scores: Scores) -> str:
    """The result in one sentence."""
    first = scores.models[0]
    text = f"{first.name} scores {_percent(first.score.mean)} ({_interval(first.score)})"
    gains = [
        f"{_points(comparison.difference.mean)} points over {name} ({_points(comparison.difference.low)} to "
        f"{_points(comparison.difference.high)})"
        for name, comparison in scores.comparisons.items()
    ]
    return f"{text} on {scores.problems} problems" + (f": {' and '.join(gains)}." if gains else ".")


def pass_chart(scores: Scores) -> dict[str, Any] | None:
    """Lines of pass@k over k (log scale) in SVG coordinates; None when there is only one k."""
    ks = sorted({k for model in scores.models for k in model.pass_at_k})
    if len(ks) < 2:
        return None
    place = {k: _MARGIN + number / (len(ks) - 1) * (_CHART_WIDTH - 2 * _MARGIN) for number, k in enumerate(ks)}

    def height(share: float) -> float:
        return _MARGIN / 2 + (1 - share) * (_CHART_HEIGHT - 1.25 * _MARGIN)

    lines = []
    for model in scores.models:
        points = [(place[k], height(value.mean)) for k, value in sorted(model.pass_at_k.items())]
        band = [(place[k], height(value.high)) for k, value in sorted(model.pass_at_k.items())]
        band += [(place[k], height(value.low)) for k, value in sorted(model.pass_at_k.items(), reverse=True)]
        lines.append({"name": model.name, "points": points, "line": _path(points), "band": _path(band)})
    grid = [(height(share), f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    size = {"width": _CHART_WIDTH, "height": _CHART_HEIGHT, "left": _MARGIN, "right": _CHART_WIDTH - _MARGIN}
    return size | {"lines": lines, "grid": grid, "ticks": [(place[k], f"k = {k}") for k in ks]}


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _details(row: SampleRow) -> dict[str, Any]:
    details: Any = json.loads(row.details or "{}")
    marks = details.get("checkpoints") if isinstance(details, Mapping) else None
    return {
        "checkpoints": marks if isinstance(marks, list) else [],
        "deductions": details.get("deductions") or [] if isinstance(details, Mapping) else [],
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    """Percentage points with a sign; a true minus."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _interval(estimate: Estimate) -> str:
    return f"95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _thousands(value: float) -> str:
    return f"{value:,.0f}"
