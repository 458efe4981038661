"""Dashboards are generated from the metrics the code defines, complete, and bounded at any number of runs."""

from __future__ import annotations

import json
import re

import pytest
from prometheus_client import Histogram
from qednano_operator import metrics as operator

from qednano import metrics as jobs
from tools.observability.__main__ import ROOT, files, metrics_of
from tools.observability.alerts import ALERTS
from tools.observability.dashboards import DASHBOARDS
from tools.observability.promql import exported

BOUNDED = {  # labels whose values are named in the code or the spec, never taken from data
    "role", "outcome", "reason", "quantile", "stage", "model", "kind", "phase", "result", "verb", "code", "namespace",
    "cause", "bucket", "cycles", "training", "evaluation", "step",
}  # fmt: skip
METRICS = [*metrics_of(jobs), *metrics_of(operator)]
EXPRESSIONS = [query.expression for page in DASHBOARDS for panel in page.panels() for query in panel.queries] + [
    alert.expression for alert in ALERTS
]


def test_generated_files_are_fresh() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in files().items() if path.read_text() != text]
    assert not stale, f"run python -m tools.observability: {stale}"


@pytest.mark.parametrize("metric", METRICS, ids=exported)
def test_every_metric_is_on_a_page_or_in_an_alert_and_its_series_are_bounded(metric) -> None:
    assert set(metric._labelnames) <= BOUNDED
    assert any(exported(metric) in expression for expression in EXPRESSIONS)


def test_every_name_in_an_expression_is_a_metric() -> None:
    names = {exported(metric) for metric in METRICS}
    names |= {
        f"{exported(metric)}_{part}"
        for metric in METRICS
        if isinstance(metric, Histogram)
        for part in ("bucket", "sum", "count")
    }
    used = {name for text in EXPRESSIONS for name in re.findall(r"\bqednano_\w+", text)}
    assert used <= names


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_a_page_has_variables_links_and_units_and_no_panel_overlaps(page) -> None:
    board = json.loads((ROOT / "charts/qednano/files/dashboards" / f"{page.uid}.json").read_text())
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert variables >= {"datasource"} | ({"namespace", "run"} if page.kind else set())
    assert {link["title"] for link in board["links"]} == {other.title for other in DASHBOARDS if other is not page}
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) == len(page.panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + column, place["y"] + row) for column in range(place["w"]) for row in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["description"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("page", [page for page in DASHBOARDS if page.kind], ids=lambda page: page.uid)
def test_a_page_of_a_kind_shows_no_runs_of_another(page) -> None:
    loose = [
        f"{panel.title}: {inside}"
        for panel in page.panels()
        for query in panel.queries
        for inside in re.findall(r"qednano_\w+(?:\{([^}]*)\})?", query.expression)
        if f'run_kind="{page.kind}"' not in inside
    ]
    assert not loose


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_lines_of_several_runs_are_told_apart(page) -> None:
    """A line that is there once for each run has the run's name in its legend."""
    alike = [
        f"{panel.title}: {query.expression}"
        for panel in page.panels()
        for query in panel.queries
        if panel.draw != "stat"
        and "run=~" in query.expression
        and "{{run}}" not in query.legend
        and (re.search(r"by \([^)]*\brun\b", query.expression) or not re.search(r"\b(sum|max)\b", query.expression))
    ]
    assert not alike
