"""Checkpoints of a training run, evaluated one after the other: their curve is in metrics, report and folder."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from qednano_jobs.evaluate import checkpoint_of

from qednano.api import KINDS, EvalRunSpec
from qednano.evals.continuous import record
from qednano.evals.results import order_of, sample_rows
from qednano.evals.run import Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds.single_pass import SinglePass
from qednano.evals.scores import SampleRow, score_all
from qednano.evals.tree import ROLES, Asked
from qednano.llm.chat import ChatParams
from qednano.llm.served import ServedModel
from qednano.pages.templates import percent
from qednano.plan import export_path
from qednano.plan.evaluations import due_evaluations
from qednano.progress import Reporter
from tests.evals.test_evaluate import PROBLEMS, ByName, ModelServer, never

TEMPLATE = EvalRunSpec.model_validate(
    {
        "model": {"uri": "/qed/base"},
        "benchmark": {"proofDataset": {"name": "tiny", "split": "test"}},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "suspend": True,
    }
)


def training() -> object:
    spec = {
        "model": {"init": {}},
        "dataset": {"proofDataset": {"name": "tiny"}},
        "trainer": {"maxSteps": 40},
        "evaluations": [{"name": "proofs", "evalRun": "template", "everySteps": 20, "best": True}],
    }
    return KINDS["SFTRun"].model_validate({"kind": "SFTRun", "metadata": {"name": "tiny-sft"}, "spec": spec})


async def curve_in(url: str) -> dict[tuple[str, str, str], float]:
    """(training run, evaluation, step) to score, as Prometheus reads it from the port of a job."""
    text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        tuple(sample.labels[name] for name in ("training", "evaluation", "step")): sample.value
        for sample in families["qednano_eval_checkpoint_score"].samples
    }


async def test_the_curve_of_checkpoints_is_in_metrics_and_report_and_its_best_is_chosen(tmp_path):
    manifests = due_evaluations(training(), [20, 40], [], {"template": TEMPLATE})
    reporter, trained = Reporter(), tmp_path / "train"
    port = reporter.serve(0, "127.0.0.1")
    for manifest, quality in zip(manifests, ("strong", "weak"), strict=True):
        spec = KINDS["EvalRun"].model_validate(manifest).spec
        folder = tmp_path / manifest["metadata"]["name"]
        config = EvaluationConfig([Contender(spec.model_name, f"/models/{quality}")], PROBLEMS, 2, capacity=4)
        config = replace(config, checkpoint=checkpoint_of(spec))

        def cast(contender, served):
            return dict.fromkeys(ROLES, Asked(ServedModel(served, contender.name, 64), contender.uri, ChatParams(20)))

        async with ModelServer(folder, "server-0"):
            evaluation = Evaluation(config, SinglePass(), ByName(), cast, folder, reporter)
            await asyncio.wait_for(evaluation.run(never), 20)
        order = order_of([spec.model_name], [problem.id for problem in PROBLEMS], 2)
        rows = [SampleRow(**row) for row in sample_rows(evaluation.parts, order)]
        export = trained / export_path(spec.continuous.step)
        export.mkdir(parents=True)
        record(spec.continuous, export, score_all([spec.model_name], rows, {}, 2))

    best = json.loads((trained / "best.json").read_text())
    scores = {item["step"]: item["score"] for item in best["curve"]}
    assert set(scores) == {20, 40} and scores[20] > 0.4 > scores[40]
    assert await curve_in(f"http://127.0.0.1:{port}/metrics") == {
        ("tiny-sft", "proofs", str(step)): pytest.approx(score) for step, score in scores.items()
    }
    assert best["step"] == 20 and (trained / "best").resolve() == trained / export_path(20)
    page = (trained / "evaluations" / "curve.html").read_text()
    assert page.count("<circle") == 2 and all(f"<strong>{percent(score)}" in page for score in scores.values())


def test_any_other_evaluation_is_of_no_checkpoint():
    assert checkpoint_of(TEMPLATE) is None
