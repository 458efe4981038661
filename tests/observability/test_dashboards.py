"""Dashboards are generated from the metrics the code defines, complete, and bounded at any number of runs."""

from __future__ import annotations

import json
import re

import pytest
from prometheus_client import Histogram
from qednano_operator import metrics as operator

from qednano import metrics as jobs
from tools.observability.__main__ import ROOT, files, metrics_of, reference
from tools.observability.alerts import ALERTS
from tools.observability.dashboards import DASHBOARDS
from tools.observability.promql import exported
from tools.observability.units import PLAIN, unit_of

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


@pytest.mark.parametrize("metric", METRICS, ids=exported)
def test_every_metric_has_a_unit_and_says_what_it_is(metric) -> None:
    assert metric._documentation.endswith(".")
    assert bool(unit_of(metric)) != (metric._name in PLAIN)


def test_no_cell_of_the_reference_is_cut_by_a_bar() -> None:
    """KL(policy || reference) has two of them."""
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    assert any("\\|\\|" in row for row in rows)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


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


OF_A_KIND = [page for page in DASHBOARDS if page.kind]


def _board(page) -> dict:
    return json.loads((ROOT / "charts/qednano/files/dashboards" / f"{page.uid}.json").read_text())


@pytest.mark.parametrize("page", OF_A_KIND, ids=lambda page: page.uid)
def test_checkpoints_and_restarts_are_marked_at_their_own_moment_for_the_runs_shown(page) -> None:
    marks = {mark["name"]: mark for mark in _board(page)["annotations"]["list"]}
    assert set(marks) == {"Checkpoints", "Starts and restarts"}
    for mark in marks.values():
        assert mark["useValueForTime"] and mark["tagKeys"] == "namespace,run"
        assert 'run=~"$run"' in mark["expr"] and f'run_kind="{page.kind}"' in mark["expr"]


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_a_link_takes_the_namespaces_along_and_no_name_of_a_run(page) -> None:
    for link in _board(page)["links"]:
        assert "run" not in link["url"].partition("?")[2] and not link["includeVars"] and link["keepTime"]
        alone = "operator" in page.uid or "operator" in link["url"]
        assert ("${namespace:queryparam}" in link["url"]) != alone


@pytest.mark.parametrize("page", OF_A_KIND, ids=lambda page: page.uid)
def test_a_page_begins_with_one_run_but_evaluations_are_seen_together(page) -> None:
    (run,) = [item for item in _board(page)["templating"]["list"] if item["name"] == "run"]
    assert run["multi"] and run["includeAll"] == (page.kind == "EvalRun")


def test_a_line_of_the_fleet_leads_to_the_page_of_its_run() -> None:
    board = _board(next(page for page in DASHBOARDS if page.uid == "qednano-fleet"))
    (panel,) = [panel for panel in board["panels"] if panel["title"] == "Progress of runs"]
    (link,) = panel["fieldConfig"]["defaults"]["links"]
    (target,) = panel["targets"]
    led = dict(re.findall(r'"page", "(\w+)", "run_kind", "(\w+)"', target["expr"]))
    assert {f"qednano-{page}": kind for page, kind in led.items()} == {page.uid: page.kind for page in OF_A_KIND}
    assert link["url"].startswith("/d/qednano-${__field.labels.page}?")
    assert "var-run=${__field.labels.run}" in link["url"]


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_a_panel_has_one_unit(page) -> None:
    """Seconds are a time and never a number of GPUs; a rate is not drawn beside a time or a share."""
    for panel in page.panels():
        rates = [query.expression.startswith("sum") and "rate(" in query.expression for query in panel.queries]
        if panel.unit == "s":
            assert not any(rates), panel.title
        assert "gpu_seconds" not in panel.queries[0].expression or panel.unit != "s", panel.title


@pytest.mark.parametrize("page", OF_A_KIND, ids=lambda page: page.uid)
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


@pytest.mark.parametrize("name", ["runbooks.md", "monitoring.md", "reproduce.md", "howto/sick-run.md"])
def test_every_panel_that_the_docs_name_is_there(name: str) -> None:
    titles = {"Run"} | {panel.title for page in DASHBOARDS for panel in page.panels()}  # the variable
    titles |= {text for page in DASHBOARDS for text in (page.title, page.title.removeprefix("qednano / "))}
    titles |= {row.title for page in DASHBOARDS for row in page.rows}
    named = re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", (ROOT / "docs" / name).read_text())
    assert named and set(named) <= titles
