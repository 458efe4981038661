"""Dashboards as Grafana's JSON, by the Grafana Foundation SDK."""

from __future__ import annotations

import json

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from qednano_operator import metrics as op

from qednano import metrics as m
from tools.observability.model import Dashboard, Panel
from tools.observability.promql import RUN, exported, gained

_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_MOMENTS = {"Checkpoints", "Starts and restarts"}
"""Annotations whose value is their moment, in milliseconds; the SDK has no word for that."""


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel:
    built: timeseries.Panel | stat.Panel
    if panel.draw == "stat":
        built = stat.Panel().graph_mode(kinds.BigValueGraphMode.AREA)
    else:
        built = timeseries.Panel().legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        built = built.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
        if panel.draw == "stacked":
            built = built.fill_opacity(40).stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
        if panel.draw == "bars":
            built = built.draw_style(kinds.GraphDrawStyle.BARS).fill_opacity(60)
        if panel.log:
            built = built.scale_distribution(common.ScaleDistributionConfig().type(kinds.ScaleDistribution.LOG).log(10))
    built = built.title(panel.title).description(panel.about).unit(panel.unit).span(panel.width).height(panel.height)
    built = built.datasource(_SOURCE)
    if panel.links:
        built = built.data_links([dashboard.DashboardLink(title).url(url) for title, url in panel.links])
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend or "__auto")
        built = built.with_target(target.ref_id(chr(ord("A") + number)).range().datasource(_SOURCE))
    return built


def _variable(name: str, label: str, query: str, everything: bool = True) -> dashboard.QueryVariable:
    built = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
    )
    return built.include_all(True).all_value(".*") if everything else built


def _annotation(name: str, expression: str, colour: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).enable(True).icon_color(colour).datasource(_SOURCE).expr(expression)


def _address(page: Dashboard, other: Dashboard) -> str:
    """Of another page for the same namespaces; a run's name means nothing on the page of another kind."""
    kept = ["datasource", *(["namespace"] if _OPERATOR not in (page.uid, other.uid) else [])]
    return f"/d/{other.uid}?" + "&".join(f"${{{name}:queryparam}}" for name in kept)


_OPERATOR = "qednano-operator"


def _of_a_kind(built: dashboard.Dashboard, kind: str) -> dashboard.Dashboard:
    """With the variable of its runs, and marks where they began, began anew and saved.

    A page of one run begins with one run, since two hundred of them would make no picture; several may be chosen. A
    training run's evaluations are runs of their own, so theirs begins with all.
    """
    of_kind = f'run_kind="{kind}"'
    known = f'label_values({exported(m.STEP)}{{{of_kind},namespace=~"$namespace"}}, run)'
    built = built.with_variable(_variable("run", "Run", known, everything=kind == "EvalRun"))

    def latest(name: str, more: str = "") -> str:
        return f"1000 * max by (namespace, run) ({name}{{{RUN},{of_kind}{more}}} > 0)"

    begun = latest("process_start_time_seconds", ',role=~"trainer|dataset|evaluate"')
    built = built.annotation(_annotation("Checkpoints", latest(exported(m.CHECKPOINT_TIME)), "green"))
    return built.annotation(_annotation("Starts and restarts", begun, "red"))


def _finished(text: str) -> str:
    """The page with what the SDK can't say, in an order that does not change."""
    board = json.loads(text)
    for mark in board["annotations"]["list"]:
        if mark["name"] in _MOMENTS:
            mark |= {"useValueForTime": True, "tagKeys": "namespace,run", "titleFormat": mark["name"]}
        else:
            mark |= {"tagKeys": "kind,reason", "titleFormat": mark["name"]}
    return json.dumps(board, indent=1, sort_keys=True) + "\n"


def to_json(page: Dashboard, others: tuple[Dashboard, ...]) -> str:
    """The page as Grafana imports it: variables for data source, namespace and run, links to the other pages."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.about)
        .tags(list(page.tags))
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    where = f'run_kind="{page.kind}"' if page.kind else ""
    if page.uid != _OPERATOR:
        known = f"label_values({exported(m.STEP)}{{{where}}}, namespace)"
        built = built.with_variable(_variable("namespace", "Namespace", known))
    if page.kind:
        built = _of_a_kind(built, page.kind)
    else:
        built = built.annotation(_annotation("Restarts", gained(op.RESTARTS, "kind, reason", "1m"), "red"))
    for other in others:
        if other.uid != page.uid:
            link = dashboard.DashboardLink(other.title).type(models.DashboardLinkType.LINK)
            built = built.link(link.url(_address(page, other)).keep_time(True))
    for row in page.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built = built.with_panel(_panel(panel))
    return _finished(JSONEncoder(sort_keys=True).encode(built.build()))
