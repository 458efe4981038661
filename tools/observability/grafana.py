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
from tools.observability.promql import exported

_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


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
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend or "__auto")
        built = built.with_target(target.ref_id(chr(ord("A") + number)).range().datasource(_SOURCE))
    return built


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def _annotation(name: str, expression: str, colour: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).enable(True).icon_color(colour).datasource(_SOURCE).expr(expression)


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
    step = exported(m.STEP)
    if page.uid != "qednano-operator":
        built = built.with_variable(_variable("namespace", "Namespace", f"label_values({step}{{{where}}}, namespace)"))
    if page.kind:
        inside = f'{where},namespace=~"$namespace"'
        built = built.with_variable(_variable("run", "Run", f"label_values({step}{{{inside}}}, run)"))
        saved = f'changes({exported(m.CHECKPOINT_TIME)}{{namespace=~"$namespace",run=~"$run"}}[1m]) > 0'
        built = built.annotation(_annotation("Checkpoints", saved, "green"))
    restarts = f"sum by (kind, reason) (increase({exported(op.RESTARTS)}[1m])) > 0"
    built = built.annotation(_annotation("Restarts", restarts, "red"))
    for other in others:
        if other.uid != page.uid:
            built = built.link(
                dashboard.DashboardLink(other.title)
                .type(models.DashboardLinkType.LINK)
                .url(f"/d/{other.uid}")
                .include_vars(True)
                .keep_time(True)
            )
    for row in page.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built = built.with_panel(_panel(panel))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(built.build())), indent=1, sort_keys=True) + "\n"
