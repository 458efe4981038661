"""Two hundred runs in forty namespaces: the pages that begin with all of them stay readable, in a real Prometheus."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from itertools import product

import pytest
from qednano_operator import metrics as operator

from qednano import metrics as jobs
from tools.observability.dashboards import DASHBOARDS
from tools.observability.prometheus import Prometheus, configuration, serving
from tools.observability.promql import concrete, exported

RUNS, NAMESPACES, MOST = 200, 40, 30
KINDS = ("ProofDataset", "SFTRun", "RLRun", "EvalRun")
PHASES = ("Pending", "Waiting", "Queued", "Starting", "Running", "Succeeded", "Failed")
ALL_RUNS = [page for page in DASHBOARDS if page.uid in ("qednano-fleet", "qednano-evaluation", "qednano-operator")]


def _exposition(moment: float) -> str:
    """What two hundred runs and an operator have to say, growing."""
    lines = []

    def said(name: str, value: float, **labels: str) -> None:
        about = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"{name}{{{about}}} {value}")

    for number in range(RUNS):
        kind = KINDS[number % 4]
        run = {"namespace": f"team-{number % NAMESPACES}", "run": f"run-{number}", "run_kind": kind, "role": "trainer"}
        asked = {**run, "role": "teacher"}
        said(exported(jobs.STEP), number + moment, **run)
        said(exported(jobs.STEPS_TOTAL), 1000, **run)
        said(exported(jobs.LLM_COMPLETION_TOKENS), number * moment, **asked)
        said(exported(jobs.LLM_COST), number * moment, **asked)
        if kind == "EvalRun":
            model = {**run, "role": "evaluate"}
            said(exported(jobs.EVAL_SCORE), number / RUNS, **model, model=f"rl-{number}")
            said(exported(jobs.EVAL_SAMPLES), number * moment, **model, model=f"rl-{number}")
            said(exported(jobs.CHECKPOINT_SCORE), 0.5, **model, training="rl", evaluation="test", step=str(number))
    for kind, phase in product(KINDS, PHASES):
        said(exported(operator.RUNS), RUNS / 28, kind=kind, phase=phase)
    for number in range(NAMESPACES):
        for metric in (
            operator.GPU_SECONDS,
            operator.GPU_COST,
            operator.LOST_GPU_SECONDS,
            operator.STARTING_GPU_SECONDS,
        ):
            said(exported(metric), (number + 1) * moment, namespace=f"team-{number}", kind="RLRun")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped them a few times."""
    began = time.monotonic()

    class Exporter(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(_exposition(1 + time.monotonic() - began).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = {
        "job_name": "all",
        "honor_labels": True,
        "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}],
    }
    file = tmp_path_factory.mktemp("targets") / "targets.json"
    file.write_text("[]")
    with serving(configuration(file, (page,), interval="1s")) as found:
        deadline = time.monotonic() + 60
        while not found.query('count_over_time(up{job="all"}[1m]) > 4'):
            assert time.monotonic() < deadline, found.query("up")
            time.sleep(0.5)
        yield found
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("page", ALL_RUNS, ids=lambda page: page.uid)
def test_a_page_of_all_runs_draws_few_lines(source: Prometheus, page) -> None:
    drawn = {
        panel.title: sum(len(source.query(concrete(query.expression))) for query in panel.queries)
        for panel in page.panels()
    }
    assert sum(lines > 0 for lines in drawn.values()) >= 3, drawn
    assert max(drawn.values()) <= MOST, drawn


def test_every_panel_of_all_runs_that_has_a_line_for_each_is_cut(source: Prometheus) -> None:
    """The planted number is large enough to be noticed: without the cut there are as many lines as runs."""
    (fleet,) = [page for page in ALL_RUNS if page.uid == "qednano-fleet"]
    (progress,) = [panel for panel in fleet.panels() if panel.title == "Progress of runs"]
    expression = concrete(progress.queries[0].expression)
    found = source.query(expression)
    assert len(found) == 20 and {item["metric"]["page"] for item in found} == {"data", "sft", "rl", "evaluation"}
    assert len(source.query(expression.replace("bottomk(20,", "bottomk(1000,"))) == RUNS
