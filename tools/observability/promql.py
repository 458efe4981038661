"""PromQL from metric objects: names come from the code, so a renamed metric can't leave a dashboard behind."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from qednano import metrics

RUN = 'namespace=~"$namespace",run=~"$run"'
"""The run that a page shows; the labels come from the pods by the scrape."""
WINDOW = "$__rate_interval"


_TRAINERS = {
    metrics.TRAINED_REWARD,
    metrics.CLIPPED_SHARE,
    metrics.EFFECTIVE_SAMPLE_SIZE,
    metrics.ENTROPY,
    metrics.REFERENCE_KL,
    metrics.KL,
}


def _owned(metric: MetricWrapperBase) -> str:
    """Which processes mean a gauge without labels: every other one exports it too, as the zero it starts from."""
    if not isinstance(metric, Gauge) or metric._labelnames or not metric._name.startswith(("qednano_rl", "qednano_gr")):
        return ""
    return 'role="trainer"' if metric in _TRAINERS else 'role=~"actor|evaluate|dataset"'


def exported(metric: MetricWrapperBase) -> str:
    """The name under which Prometheus knows a counter or gauge."""
    name: str = metric._name
    return f"{name}_total" if isinstance(metric, Counter) else name


def type_of(metric: MetricWrapperBase) -> str:
    """Kind of a metric in words, for the reference page."""
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    return kinds[type(metric)]


def series(metric: MetricWrapperBase, where: str = RUN, part: str = "") -> str:
    """The metric's series; ``part`` is bucket, sum or count of a histogram."""
    chosen = ",".join(item for item in (where, _owned(metric)) if item)
    return f"{exported(metric)}{'_' + part if part else ''}{{{chosen}}}"


def rate(metric: MetricWrapperBase, by: str = "", where: str = RUN, part: str = "") -> str:
    """Sum of the rates of a counter, or of a part of a histogram, a second."""
    return f"sum{_by(by)} (rate({series(metric, where, part)}[{WINDOW}]))"


def gained(metric: MetricWrapperBase, by: str, window: str, where: str = "") -> str:
    """By how much a counter has grown within the window, where it has.

    Other than by ``increase``, a series that has just appeared counts from zero.
    """
    now = f"sum by ({by}) ({series(metric, where)})"
    before = now.replace("})", f"}} offset {window})")
    return f"({now} - ({before} or {now} * 0)) > 0"


def quantile(q: float, metric: MetricWrapperBase, by: str = "", where: str = RUN) -> str:
    """A quantile of a histogram over the last interval."""
    labels = ", ".join(["le", *([by] if by else [])])
    return f"histogram_quantile({q}, sum by ({labels}) (rate({series(metric, where, 'bucket')}[{WINDOW}])))"


def mean(metric: MetricWrapperBase, by: str = "", where: str = RUN) -> str:
    """Mean of a histogram over the last interval."""
    return f"{rate(metric, by, where, 'sum')} / {rate(metric, by, where, 'count')}"


def progress(where: str = RUN) -> str:
    """Share of the work that is done, of each process that knows how much there is.

    Other processes of a run count steps of another sort (samples served, groups drawn), so the two are matched first.
    """
    return f"{series(metrics.STEP, where)} / ({series(metrics.STEPS_TOTAL, where)} > 0)"


def only(kind: str, expression: str) -> str:
    """The expression for runs of one kind: kinds may share names, and "All" is all of the page."""
    return expression.replace(RUN, f'{RUN},run_kind="{kind}"')


def total(metric: MetricWrapperBase, by: str = "", where: str = RUN) -> str:
    """Sum of a gauge's or a counter's series."""
    return f"sum{_by(by)} ({series(metric, where)})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def concrete(expression: str, interval: str = "30s") -> str:
    """The expression with Grafana's variables filled in: everything, over a fixed interval."""
    values = {"$__rate_interval": interval, "$namespace": ".*", "$run": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression
