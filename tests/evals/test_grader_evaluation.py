"""Graders against people: the shapes of human-scored sets, and an evaluation that is stopped, resumed and written."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qednano.api import EvalRunSpec
from qednano.api.benchmarks import GRADED, KnownBenchmark
from qednano.api.grader_evaluation import GradedColumns, GradedProofs
from qednano.artifacts import read_manifest
from qednano.data.columns import Record
from qednano.errors import DataError, Stopped
from qednano.evals.graded import proofs_of, read
from qednano.evals.grader_run import Candidate, GraderEvaluation, headline, headline_metrics
from qednano.grading.health import GraderHealth
from qednano.grading.interface import Failure, Grade
from qednano.plan import language_models, literal_inputs, roles
from qednano.progress import Reporter
from qednano.tiny import teacher
from qednano.tiny.problems import generate

IMO_GRADING = {
    "Grading ID": "GB-0001", "Problem ID": "PB-Advanced-001", "Problem": "Prove it.", "Solution": "By magic.",
    "Grading guidelines": "(Partial) tried", "Response": "My proof.", "Points": 6, "Reward": "Almost",
    "Problem Source": "x",
}  # fmt: skip
PROOF_BENCH = {
    "problem_id": "APMO-2023-2", "problem": "Prove it.", "generator": "o3", "model_solution": "My proof.",
    "reference_solution": "By magic.", "expert_rating": 3, "marking_scheme": "1. one point", "response_number": 0,
}  # fmt: skip
MATH_ARENA = {
    "problem_idx": "4", "problem": "Prove it.", "model_name": "m", "answer": "My proof.", "points_judge_1": 20,
    "points_judge_2": 10.0, "max_points_judge_1": 30, "max_points_judge_2": 30.0,
    "grading_details_judge_1": [
        {"title": "Start", "desc": "well done", "grading_scheme_desc": "Starts.", "max_points": 30, "points": 20}
    ],
}  # fmt: skip
VIEWER = {
    "id": "p1", "problem": "Prove it.", "reference": "By magic.", "rubric": "words", "answer": "3",
    "proof": "My proof.", "score": 5, "grader": "ann", "note": "", "model": "rl", "source": "tiny",
}  # fmt: skip


def records(*rows):
    return [Record(f"rows.jsonl line {number}", row) for number, row in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("row", "problem", "human", "rubric", "author"),
    [
        (IMO_GRADING, "PB-Advanced-001", 6.0, "(Partial) tried", ""),
        (PROOF_BENCH, "APMO-2023-2", 3.0, "1. one point", "o3"),
        (MATH_ARENA, "4", 7 * 15 / 30, "Start (30 points): Starts.", "m"),
        (VIEWER, "p1", 5.0, "words", "rl"),
    ],
)
def test_the_usual_sets_load_as_they_are(row, problem, human, rubric, author):
    (proof,) = read(records(row), GradedColumns())
    assert (proof.problem.id, proof.proof, proof.author) == (problem, "My proof.", author)
    assert proof.human == pytest.approx(human)
    assert proof.problem.rubric == rubric
    assert "well done" not in (proof.problem.rubric or ""), "what a judge said is no scheme"
    assert proof.problem.answer == ("3" if row is VIEWER else None)


def test_columns_can_be_named_and_scores_scaled():
    row = {"q": "Prove.", "text": "P", "a": 8, "b": None, "c": 10}
    columns = GradedColumns.model_validate({"problem": "q", "proof": "text", "score": ["a", "b", "c"]})
    assert read(records(row), columns, max_score=14)[0].human == pytest.approx(4.5)
    with pytest.raises(DataError, match=r"score is 9, outside of 0..7: set graderEvaluation.data.maxScore"):
        read(records(row), columns)
    wrong = GradedColumns.model_validate({"proof": "nope"})
    with pytest.raises(DataError, match=r"'nope', which graderEvaluation.data.columns.proof names \(there is: 'q'"):
        read(records({"q": "x", "problem": "x", "score": 1}), wrong)


def test_rows_that_nobody_scored_are_left_out_and_equal_ones_keep_ids_of_their_own():
    proofs = read(records({**VIEWER, "score": None}, VIEWER, VIEWER, {**VIEWER, "proof": "Another."}), GradedColumns())
    assert len(proofs) == len({proof.id for proof in proofs}) == 3
    assert read(records(VIEWER), GradedColumns())[0].id == proofs[0].id, "an id depends on nothing but the row"
    with pytest.raises(DataError, match="no proof with a human score"):
        read(records({**VIEWER, "score": None}), GradedColumns())
    with pytest.raises(DataError, match="'high', which is no score"):
        read(records({**VIEWER, "score": "high"}), GradedColumns())


def test_a_known_set_is_read_from_the_hub(monkeypatch, tmp_path):
    (tmp_path / "set/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([IMO_GRADING]), tmp_path / "set/data/train-00000-of-00001.parquet")
    monkeypatch.setitem(GRADED, "imo-gradingbench", KnownBenchmark(str(tmp_path / "set")))
    spec = GradedProofs.model_validate({"known": "imo-gradingbench"})
    assert [proof.human for proof in proofs_of(spec, None, tmp_path / "run")] == [6.0]


# -- the evaluation ----------------------------------------------------------------------------------------------------


class Shifted:
    """Gives the human score and so many points more, which it reads off the proof; fails for some proofs."""

    def __init__(self, shift, fails=frozenset(), cost=0.5):
        self.shift, self.fails, self.cost = shift, set(fails), cost
        self.calls: list[str] = []

    @property
    def name(self):
        return f"shifted by {self.shift}"

    async def grade(self, problem, proof, *, cut_off=False):
        self.calls.append(proof)
        await asyncio.sleep(0)
        usage = {"usage": {"calls": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost": self.cost}}
        if proof in self.fails:
            return Grade(None, "unreadable", usage, Failure.REFUSED)
        return Grade(min(7, int(proof.split()[-1]) + self.shift), "so", usage)

    async def close(self): ...


PROOFS = read(
    records(
        *(
            {"problem_id": f"p{n // 4}", "problem": f"P{n // 4}", "proof": f"proof {n} {n * 3 % 8}", "score": n * 3 % 8}
            for n in range(24)
        )
    ),
    GradedColumns(),
)


def evaluation(folder, **graders):
    candidates = {name: Candidate(grader, GraderHealth(100)) for name, grader in graders.items()}
    return GraderEvaluation(PROOFS, candidates, folder, Reporter(), concurrency=4)


async def test_graders_are_compared_on_the_same_proofs_and_what_they_cost_is_told(tmp_path):
    exact, generous = Shifted(0), Shifted(2, cost=None)
    found = evaluation(tmp_path, exact=exact, generous=generous)
    await found.run(lambda: False)
    assert len(exact.calls) == len(generous.calls) == 24
    first, second = found.results()
    assert (first.worth.mae.mean, first.graded, first.ungraded) == (0.0, 24, 0)
    assert second.worth.bias.mean > 1
    assert (first.tokens_per_proof, first.cost, second.cost) == (15.0, pytest.approx(12.0), None)
    comparison = found.comparisons()["generous"]
    assert comparison.difference.mean < 0 and comparison.p_value < 0.05
    assert comparison.better == 6, "the first has the smaller error on all six problems"
    assert headline(found.results()).startswith("on 24 proofs scored by people, exact is off by 0.00 points")
    assert headline_metrics(found.results())["mae"] == 0.0
    metrics = found._reporter.report().metrics
    assert (metrics["tokens/in"], metrics["tokens/out"]) == (480.0, 240.0)
    assert "cost" not in metrics, "one of the prices is unknown"


async def test_a_stopped_evaluation_goes_on_with_what_is_missing_and_asks_again_for_what_failed(tmp_path):
    failing = {PROOFS[0].proof, PROOFS[5].proof}
    first = evaluation(tmp_path, g=Shifted(1, fails=failing))
    with pytest.raises(Stopped):
        await first.run(lambda: len(first.rows) >= 6)
    with (tmp_path / "samples/grades.jsonl").open("a") as file:
        file.write('{"grader": "g", "id"')  # what a kill leaves
    healed = Shifted(1)
    second = evaluation(tmp_path, g=healed)
    assert len(second.rows) == len(first.rows)
    await second.run(lambda: False)
    done = {row.id for row in first.rows.values()}
    assert sorted(healed.calls) == sorted(proof.proof for proof in PROOFS if proof.id not in done)
    (result,) = second.results()
    assert (result.graded, result.failures) == (24, {})
    assert result.tokens == 15 * (24 + len(second.paid)), "failed gradings were paid too"


async def test_proofs_without_a_grade_are_counted_and_never_zero(tmp_path):
    found = evaluation(tmp_path, g=Shifted(0, fails={PROOFS[1].proof}))
    await found.run(lambda: False)
    (result,) = found.results()
    assert (result.graded, result.ungraded, result.failures, result.worth.mae.mean) == (23, 1, {"refused": 1}, 0.0)
    mute = evaluation(tmp_path / "mute", g=Shifted(0, fails={proof.proof for proof in PROOFS}))
    await mute.run(lambda: False)
    with pytest.raises(DataError, match="grader g gave no grade for any of 24 proofs: unreadable"):
        mute.results()


async def test_the_artifact_has_every_number_and_every_row(tmp_path):
    found = evaluation(tmp_path, a=Shifted(0), b=Shifted(1, fails={PROOFS[1].proof}))
    await found.run(lambda: False)
    out = tmp_path / "out"
    out.mkdir()
    found.write(out)
    rows = pq.read_table(out / "grades.parquet").to_pylist()
    assert len(rows) == 48 and sum(row["score"] is None for row in rows) == 1
    assert {row["failure"] for row in rows} == {None, "refused"}
    assert pq.read_table(out / "proofs.parquet").num_rows == 24
    told = json.loads((out / "grading.json").read_text())
    assert [item["name"] for item in told["graders"]] == ["a", "b"]
    assert {"mae", "rmse", "bias", "bucket_accuracy", "pairwise_consistency", "advantage_difference", "kappa",
            "spearman", "calibration", "confusion", "cost_per_proof"} <= set(told["graders"][0])  # fmt: skip
    assert told["comparisons"]["b"]["p_value"] <= 1


# -- the spec and the job ----------------------------------------------------------------------------------------------

ENDPOINT = {"endpoint": {"url": "http://localhost:1", "model": "m"}}
CHECKER = {"checker": {"name": "tiny-divisibility"}}
BY_CHECKER = {"data": {"uri": "graded.jsonl"}, "graders": [{"name": "checker", "grader": CHECKER}]}


def test_an_evaluation_of_graders_needs_no_model_benchmark_or_server():
    spec = EvalRunSpec.model_validate({"graderEvaluation": BY_CHECKER})
    assert [role.name for role in roles(spec)] == ["evaluate"]
    assert literal_inputs(spec) == {"graderEvaluation/data": "graded.jsonl"}
    served = {"model": {"uri": "/m"}}
    graders = [{"name": n, "grader": {"rubric": {"model": m}}} for n, m in (("a", served), ("b", ENDPOINT))]
    both = EvalRunSpec.model_validate({"graderEvaluation": {"data": {"known": "proofbench"}, "graders": graders}})
    assert [(use.field, use.role) for use in language_models(both)] == [
        ("graderEvaluation/graders/0/grader/rubric/model", "grader"),
        ("graderEvaluation/graders/1/grader/rubric/model", ""),
    ]
    assert [role.name for role in roles(both)] == ["grader", "evaluate"]


MODEL = {"model": {"uri": "/m"}, "benchmark": {"uri": "b.jsonl"}, "grader": CHECKER}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "model and benchmark and grader must be set"),
        ({"model": {"uri": "/m"}, "grader": CHECKER}, "benchmark must be set to evaluate a model"),
        (
            {**MODEL, "graderEvaluation": BY_CHECKER},
            "model and benchmark and grader belong to the evaluation of a model",
        ),
        ({"graderEvaluation": BY_CHECKER, "shards": 2}, "graderEvaluation takes one job"),
        ({"graderEvaluation": {**BY_CHECKER, "data": {}}}, "exactly one of uri, known, hub"),
        ({"graderEvaluation": {**BY_CHECKER, "graders": BY_CHECKER["graders"] * 2}}, "the name checker twice"),
    ],
)
def test_a_run_is_of_one_mode_and_says_which_fields_do_not_fit(spec, words):
    with pytest.raises(ValueError, match=words):
        EvalRunSpec.model_validate(spec)


def run_job(folder, monkeypatch, spec, rows):
    """The evaluate job as the operator starts it; its exit code, artifact and last words."""
    from qednano_jobs.evaluate import main

    data = folder / "graded.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "apiVersion": "qednano.dev/v1alpha1",
        "kind": "EvalRun",
        "name": "worth",
        "spec": {"graderEvaluation": spec},
        "inputs": {"graderEvaluation/data": {"uri": str(data)}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name, value in {
        "QED_CONFIG": folder / "config.json",
        "QED_RUN_DIR": folder / "run",
        "QED_ROLE": "evaluate",
        "QED_TERMINATION_PATH": folder / "last-words",
    }.items():
        monkeypatch.setenv(name, str(value))
    code = main()
    return code, folder / "run/artifact", json.loads((folder / "last-words").read_text())


def test_the_job_leaves_an_artifact(tmp_path, monkeypatch):
    rows = []
    for problem in generate(0, 6):
        for flawed in (0, 100):
            proof = teacher.write(problem, random.Random(flawed), flawed)
            score = 2 if flawed else 7
            rows.append({"problem_id": problem.id, "problem": problem.text, "proof": proof, "score": score})
    code, artifact, words = run_job(tmp_path, monkeypatch, BY_CHECKER, rows)
    assert code == 0
    told = json.loads((artifact / "grading.json").read_text())
    assert told["graders"][0]["graded"] == 12
    assert told["graders"][0]["pairwise_consistency"]["mean"] == 1.0
    assert "100.0 %" in (artifact / "report.html").read_text(), "the report shows the same numbers"
    assert read_manifest(artifact).kind == "EvalRun"
    assert words["outcome"] == "Succeeded" and float(words["metrics"]["kappa"]) > 0.5


class Judge(BaseHTTPRequestHandler):
    """An endpoint whose model `mild` gives a point more than the proof says; `rude` answers in prose."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        nonce = re.search(r"<<<PROOF ([0-9a-f]{32})>>>\nproof (\d+) (\d+)", text)
        verdict = {"nonce": nonce[1], "assessment": "so", "errors": [], "score": min(7, int(nonce[3]) + 1)}
        said = json.dumps(verdict) if body["model"] == "mild" else "A fine proof: 7/7."
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        answer = {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}, "model": body["model"]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args): ...


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def by_endpoint(name, url, model):
    price = {"inputPerMillion": "1", "outputPerMillion": "10"}
    place = {"endpoint": {"url": url, "model": model, "price": price}}
    rubric = {"model": place, "votes": 3, "sampling": {"maxTokens": 1024}}
    return {"name": name, "grader": {"rubric": rubric, "maxFailurePercent": 100}}


def test_graders_at_an_endpoint_are_asked_over_http_and_paid(tmp_path, monkeypatch, endpoint):
    rows = [
        {"problem_id": proof.problem.id, "problem": proof.problem.problem, "proof": proof.proof, "score": proof.human}
        for proof in PROOFS
    ]
    spec = {"data": {"uri": "graded.jsonl"}, "graders": [by_endpoint("mild", endpoint, "mild")]}
    code, artifact, words = run_job(tmp_path, monkeypatch, spec, rows)
    assert code == 0, words
    (grader,) = json.loads((artifact / "grading.json").read_text())["graders"]
    assert grader["graded"] == 24 and grader["bias"]["mean"] == pytest.approx(21 / 24)
    assert grader["cost_per_proof"] == pytest.approx(3 * (100 * 1 + 10 * 10) / 1e6)
    assert words["message"].startswith("on 24 proofs scored by people, mild is off by 0.88 points")


def test_a_grader_that_never_gives_a_verdict_ends_the_run_with_its_reason(tmp_path, monkeypatch, endpoint):
    monkeypatch.setattr("qednano.grading.patience._FIRST_WAIT", 0.0)
    spec = {"data": {"uri": "graded.jsonl"}, "graders": [by_endpoint("rude", endpoint, "rude")]}
    row = {"problem_id": "p", "problem": "P", "proof": PROOFS[0].proof, "score": 1}
    code, artifact, words = run_job(tmp_path, monkeypatch, spec, [row])
    assert code == 65 and not artifact.exists()
    assert (
        "grader rude gave no grade for any of 1 proofs: the grader's answer is not one JSON object" in words["message"]
    )
