"""Every expression of the pages and rules finds data in a real Prometheus that scrapes every metric of the code."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from itertools import product

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from qednano_operator import metrics as operator

from qednano import metrics as jobs
from tools.observability.__main__ import ROOT, metrics_of
from tools.observability.alerts import ALERTS
from tools.observability.coverage import coverage
from tools.observability.dashboards import DASHBOARDS
from tools.observability.prometheus import Prometheus, configuration, serving
from tools.observability.promql import concrete, exported

KINDS = ("ProofDataset", "SFTRun", "RLRun", "EvalRun")
ROLES = ("trainer", "actor", "rollout", "dataset", "evaluate", "server")
EXPRESSIONS = [query.expression for page in DASHBOARDS for panel in page.panels() for query in panel.queries] + [
    alert.expression for alert in ALERTS
]


def _values(label: str, metric: MetricWrapperBase) -> list[str]:
    """Values that expressions ask of a metric's label, and one that none asks for."""
    if label == "role":
        return list(ROLES)
    asked = set()
    for text in EXPRESSIONS:
        for inside in re.findall(rf"\b{exported(metric)}(?:_bucket|_sum|_count)?\{{([^}}]*)\}}", text):
            for found in re.findall(rf'\b{label}=~?"([^"]*)"', inside):
                asked |= {value for value in found.split("|") if "$" not in value and "." not in value}
    return sorted({*asked, "404" if label == "code" else "other"})


def _everything(metrics: list[MetricWrapperBase], moment: float) -> bytes:
    """An exposition in which every metric has a value that grows."""
    registry = CollectorRegistry()
    for metric in metrics:
        labels = metric._labelnames
        if isinstance(metric, Histogram):
            bounds = [bound for bound in metric._upper_bounds if bound != float("inf")]
            twin: MetricWrapperBase = Histogram(metric._name, "x", labels, registry=registry, buckets=bounds)
        else:
            twin = type(metric)(metric._name, "x", labels, registry=registry)
        for chosen in product(*(_values(label, metric) for label in labels)):
            child = twin.labels(*chosen) if labels else twin
            if isinstance(child, Histogram):
                for _ in range(int(moment * 10) % 1000):
                    child.observe(0.5)
            elif isinstance(child, Counter):
                child.inc(moment)
            elif isinstance(child, Gauge):
                child.set(moment)
    return generate_latest(registry) + b"process_start_time_seconds %f\n" % _BEGUN


_BEGUN = time.time() - 100.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a run of each kind and the operator a few times."""
    began = time.monotonic()

    class Exporter(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            which = operator if self.path == "/operator" else jobs
            body = _everything(metrics_of(which), 1 + time.monotonic() - began)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    file = tmp_path_factory.mktemp("targets") / "targets.json"
    targets = [
        {"targets": [address], "labels": {"namespace": "team", "run": kind.lower(), "run_kind": kind, "role": role,
                                          "pod": f"{kind.lower()}-{role}"}}
        for kind in KINDS
        for role in ROLES
    ]  # fmt: skip
    file.write_text(json.dumps(targets))
    page = {
        "job_name": "operator", "metrics_path": "/operator", "static_configs": [{"targets": [address]}],
        "honor_labels": True,
    }  # fmt: skip
    with serving(configuration(file, (page,), interval="1s")) as found:
        deadline = time.monotonic() + 60
        while len(found.query("count_over_time(up[1m]) > 5")) < len(targets) + 1:
            assert time.monotonic() < deadline, found.query("up")
            time.sleep(0.5)
        yield found
    server.shutdown()
    server.server_close()


def test_every_panel_and_rule_finds_data(source: Prometheus) -> None:
    end = time.time()
    empty = [f"{item.page}: {item.name}" for item in coverage(source, end - 20, end) if not item.fed]
    assert not empty


@pytest.mark.parametrize("page", [page for page in DASHBOARDS if page.kind], ids=lambda page: page.uid)
def test_a_start_is_marked_where_it_was_and_a_checkpoint_with_its_run(source: Prometheus, page) -> None:
    board = json.loads((ROOT / "charts/qednano/files/dashboards" / f"{page.uid}.json").read_text())
    end = time.time()
    for mark in board["annotations"]["list"]:
        (found,) = source.series(concrete(mark["expr"]), end - 5, end, 1)
        assert found["metric"] == {"namespace": "team", "run": page.kind.lower()}
        if mark["name"] == "Starts and restarts":
            assert all(float(value) == pytest.approx(1000 * _BEGUN, abs=1) for _, value in found["values"])


def test_a_panel_without_data_says_what_it_needs(source: Prometheus) -> None:
    found = coverage(source, 1000, 1020)  # long before anything was scraped
    always = {
        panel.title
        for page in DASHBOARDS
        for panel in page.panels()
        if any("vector(0)" in query.expression for query in panel.queries)
    }
    assert {item.name for item in found if item.fed and item.page != "rules"} == always
    explained = [item for item in found if not item.fed and item.needs]
    assert explained and not any(item.unexplained for item in explained)
    assert any(item.unexplained for item in found), "most panels have data in every run and need no words"
