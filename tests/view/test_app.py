"""The viewer's pages as a browser without scripts gets them, and what it refuses."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from starlette.testclient import TestClient

from qednano.api.grader_evaluation import GradedProofs
from qednano.errors import UsageError
from qednano.evals.graded import proofs_of
from qednano.evals.grader_report import ROWS
from qednano.evals.human import grades_path, read_grades
from qednano.evals.reader import EvaluationReader
from qednano.evals.statistics import compare
from qednano.view import security
from qednano.view.app import PART_CHARACTERS, make_app
from tests.view.artifact import write_artifact, write_grader_run, write_run, write_training_run
from tests.view.conftest import ADDRESS


def rows(page: str) -> list[str]:
    """What the rows of the page's main table are called."""
    return [unescape(name) for name in re.findall(r"<a data-open[^>]*>([^<]*)</a>", page)]


def sample(run: str, problem: str = "imo-0001", index: int = 1, model: str = "qed-nano", **more: object) -> str:
    return f"/runs/{run}/sample?model={model}&problem={problem}&index={index}" + "".join(
        f"&{name}={value}" for name, value in more.items()
    )


def test_the_table_of_runs_can_be_sorted_and_filtered(client):
    assert rows(client.get("/?order=score").text) == ["second", "first"]
    assert rows(client.get("/?order=-score").text) == ["first", "second"]
    assert rows(client.get("/?q=qed-sft").text) == ["second"]
    assert rows(client.get("/?kind=EvalRun&phase=Succeeded&order=name").text) == ["first", "second"]
    assert "No run matches" in client.get("/?q=nothing").text


def test_a_run_that_has_not_finished_is_listed_and_says_so(tmp_path):
    folder = write_run(tmp_path, "under-way", problems=4, samples=1, length=10)
    (folder / "artifact" / "manifest.json").unlink()
    (folder / "status.json").write_text(json.dumps({"phase": "Failed", "message": "the grader <b>failed</b>"}))
    here = TestClient(make_app([tmp_path]), base_url=ADDRESS)
    page = here.get("/").text
    assert rows(page) == ["under-way"] and "the grader &lt;b&gt;failed&lt;/b&gt;" in page
    assert "has not finished" in here.get(f"/runs/{folder.name}").text


def test_a_grader_evaluation_shows_every_measure_side_by_side(tmp_path):
    run = write_grader_run(tmp_path, "judges")
    told = json.loads((run / "artifact" / "grading.json").read_text())
    client = TestClient(make_app([tmp_path]), base_url=ADDRESS)
    for page in (client.get(f"/runs/{run.name}").text, (run / "artifact" / "report.html").read_text()):
        for row in ROWS:
            assert row.label in page
            for grader in told["graders"]:
                mean = grader[row.field]["mean"]
                shown = f"{100 * mean:.1f} %" if row.kind == "share" else f"{abs(mean):.2f}"
                assert shown in page, f"{row.field} of {grader['name']}"
        assert "unreadable 5" in page and "144,000" in page
        assert "generous &lt;b&gt;judge&lt;/b&gt;" in page and "<b>judge" not in page


def test_a_training_run_shows_the_scores_of_its_checkpoints_while_it_runs(tmp_path):
    run = write_training_run(tmp_path, "qed-sft")
    evaluation = write_run(tmp_path, "qed-sft-proofs-40", models={"step-40": 0.5}, problems=2, samples=1)
    page = TestClient(make_app([tmp_path]), base_url=ADDRESS).get(f"/runs/{run.name}").text
    assert "47.0 %" in page and "41.0 to 52.0" in page and ">best<" in page
    assert f'href="/runs/{evaluation.name}"' in page, "a step leads to its evaluation"
    assert (run / "evaluations" / "curve.html").read_text().count("<circle") == 8


def test_problems_are_filtered_by_words_category_and_outcome(client, runs):
    def found(query: str) -> list[str]:
        return rows(client.get(f"/runs/{runs.first}?{query}").text)

    assert len(found("")) == 12
    assert found("category=Geometry") == ["imo-0003", "imo-0007", "imo-0011"]
    assert found("q=orthocentre") == found("category=Geometry"), "in statements"
    assert found("q=unknowncommand") == ["imo-0001"], "in proofs"
    assert found("q=IMO-0005") == ["imo-0005"], "in ids"
    outcomes = [found(f"outcome={name}") for name in ("solved", "partly", "failed")]
    assert sorted(sum(outcomes, [])) == found("")


def test_problems_are_sorted_by_a_model_s_score(client, runs, root):
    reader = EvaluationReader(root / "default" / "evalrun" / runs.first / "artifact")
    order = rows(client.get(f"/runs/{runs.first}?order=-base").text)
    means = dict(zip(reader.samples.problems, reader.samples.means[1], strict=True))
    assert [means[name] for name in order] == sorted(means.values(), reverse=True)


def test_long_tables_have_pages(tmp_path):
    write_artifact(tmp_path / "it", problems=130, samples=1, length=10, calls=False)
    here = TestClient(make_app([tmp_path / "it"]), base_url=ADDRESS)
    (path,) = re.findall(r'data-open href="(/runs/[^"]*)"', here.get("/").text)
    pages = [rows(here.get(f"{path}?page={number}").text) for number in range(4)]
    assert [len(page) for page in pages] == [50, 50, 30, 0]
    assert len({name for page in pages for name in page}) == 130


def test_a_proof_stands_beside_the_points_it_earned(client, runs, root):
    page = client.get(sample(runs.first, "imo-0000", 0)).text
    row = EvaluationReader(root / "default" / "evalrun" / runs.first / "artifact").sample(0)
    for mark in json.loads(row["details"])["checkpoints"]:
        assert f"{mark['earned']} / {mark['points']}" in page and mark["id"] in page
    assert f'<span class="score s{int(row["score"])} large">{row["score"]:g}</span>' in page
    assert "3 votes" in page and "round-1/proof-2: the server closed the connection" in page


def test_what_a_proof_says_stays_text(client, runs):
    page = client.get(sample(runs.first, call=1, thinking=0, raw=0)).text
    assert "&lt;script&gt;window.hacked" in page
    assert set(re.findall(r"<script[^>]*>", page)) == set(re.findall(r'<script src="/[a-z/.]+\?\w+" defer>', page))
    assert "<img" not in page and "style=" not in page and " onerror=" not in re.sub(r"&[^;]+;[^<]*", "", page)


def test_the_tree_of_calls_shows_tokens_and_what_was_asked(client, runs):
    page = client.get(sample(runs.first, call=4)).text
    assert rows(page) == ["proof-1", "verify-0", "proof-2", "verify-0", "refine", "verify-0"]
    assert "1,504" in page and "judge-120b" in page
    assert "Write a proof." in page and "round-1/proof-1/verify-0" in page
    failed = client.get(sample(runs.first, "imo-0000", call=1)).text
    assert "the server closed the connection" in failed and "failed</span>" in failed


def test_thinking_is_folded_and_comes_in_parts(client, runs, root):
    reasoning = EvaluationReader(root / "default" / "evalrun" / runs.first / "artifact").sample(0)["reasoning"]
    assert len(reasoning) > 3 * PART_CHARACTERS
    assert "Let me try" not in client.get(sample(runs.first)).text
    first = client.get(sample(runs.first, thinking=0)).text
    assert "Let me try" in first and "Part 1 of 4" in first
    assert 0 < len(first) - len(client.get(sample(runs.first)).text) < 4 * PART_CHARACTERS
    assert "Part 4 of 4" in client.get(sample(runs.first, thinking=99)).text
    found = client.get(sample(runs.first, thinking=0, find="wait, i should")).text
    links = re.findall(r"thinking=(\d)[^\"#]*#:~:text=wait%2C%20i%20should", unescape(found))
    assert sorted(set(links)) == ["0", "1", "2", "3"]


def test_samples_lead_to_their_neighbours(client, runs):
    page = client.get(sample(runs.first, "imo-0001", 1)).text
    before, after = (unescape(re.search(rf'data-key="{key}" href="([^"]*)"', page)[1]) for key in "pn")
    assert before.endswith("problem=imo-0001&index=0") and after.endswith("problem=imo-0002&index=0")
    assert client.get(after).status_code == 200


def test_two_runs_are_compared_on_the_problems_they_share(client, runs, root):
    page = client.get(f"/compare?a={runs.first}~qed-nano&b={runs.second}~qed-sft").text
    readers = [EvaluationReader(root / "default" / "evalrun" / name / "artifact") for name in (runs.first, runs.second)]
    result = compare(*(list(reader.samples.means[0]) for reader in readers))
    assert f"{100 * result.difference.mean:+.1f}" in page
    assert f"{100 * result.difference.low:+.1f} to {100 * result.difference.high:+.1f}".replace("-", "−") in page
    assert len(rows(page)) == 12
    shares = [rows(client.get(f"/compare?a={runs.first}~qed-nano&b={runs.second}~qed-sft&who={who}").text)
              for who in ("better", "worse", "equal")]  # fmt: skip
    assert list(map(len, shares)) == [result.better, result.worse, result.equal]
    side = client.get(f"/compare/problem?a={runs.first}~qed-nano&b={runs.second}~qed-sft&problem=imo-0001&a_index=1")
    assert "unknowncommand" in side.text and side.text.count('class="card" id="side-') == 2


@pytest.mark.parametrize(
    "path",
    [
        "/runs/none", "/runs/{run}/problem?id=none", "/runs/{run}/sample?model=qed-nano&problem=none&index=0",
        "/runs/{run}/sample?model=qed-nano&problem=imo-0001&index=99", "/runs/{run}/sample",
        "/compare/problem?a=x&b=y&problem=z", "/pages/prose.py", "/pages/../app.py", "/static/htmx.LICENSE",
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(client, runs, path):
    answer = client.get(path.format(run=runs.first))
    assert answer.status_code == 404 and "Not here" in answer.text


@pytest.mark.parametrize(
    "query", ["page=-1", "page=99999999999", "page=x", "order=---", "order=", "outcome=%00", "q=%00%ff"]
)
def test_addresses_that_nobody_wrote_do_no_harm(client, runs, query):
    assert client.get(f"/runs/{runs.first}?{query}").status_code == 200
    assert client.get(sample(runs.first, thinking="-5", call="x", proof="1e9")).status_code == 200


def test_every_answer_carries_the_policy(client, runs):
    for path in ("/", sample(runs.first), "/runs/none", "/static/view.js"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1"]
)
def test_a_name_that_is_not_this_machine_s_is_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 403 and "proof" not in answer.text


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_a_name_is_allowed_when_it_was_given(root):
    here = TestClient(make_app([root], ["box.example"]), base_url="http://box.example")
    assert here.get("/").status_code == 200


class TestGrades:
    """Grades of people: saved, changed, taken back, exported; only by the viewer's own pages."""

    @pytest.fixture
    def artifact(self, tmp_path):
        return write_artifact(tmp_path / "run-1" / "artifact", problems=3, samples=2, length=10)

    @pytest.fixture
    def here(self, artifact):
        return TestClient(make_app([artifact]), base_url=ADDRESS, follow_redirects=False)

    def give(self, here, headers=None, **fields):
        values = {"token": security.TOKEN, "model": "qed-nano", "problem": "imo-0001", "index": "1", "score": "5"}
        values |= {"note": "A gap: $k$ is unbounded.", "grader": "Ada"} | fields
        return here.post("/runs/run-1/grade", data=values, headers={"origin": ADDRESS} | (headers or {}))

    def test_a_grade_is_kept_changed_and_taken_back(self, here, artifact):
        answer = self.give(here)
        assert answer.status_code == 303 and answer.headers["location"].endswith("#grading")
        assert "A gap:" in here.get(answer.headers["location"].partition("#")[0]).text
        self.give(here, grader="Emmy", score="7")
        self.give(here, score="0", note="")
        grades = {grade.grader: grade for grade in read_grades(grades_path(artifact))}
        assert {name: grade.score for name, grade in grades.items()} == {"Ada": 0, "Emmy": 7}
        self.give(here, grader="Ada", remove="1")
        assert [grade.grader for grade in read_grades(grades_path(artifact))] == ["Emmy"]

    def test_grades_lie_beside_the_artifact_and_outlive_another_attempt(self, here, artifact):
        self.give(here)
        path = grades_path(artifact)
        assert path == artifact.parent / "artifact.grades.jsonl"
        write_artifact(artifact, problems=3, samples=2, length=10, seed=5)
        page = here.get("/runs/run-1/sample?model=qed-nano&problem=imo-0001&index=1").text
        assert len(read_grades(path)) == 1 and "Ada" in page

    def test_a_grade_of_another_proof_is_marked(self, here, artifact):
        self.give(here, problem="imo-0000", index="0")
        path = grades_path(artifact)
        path.write_text(path.read_text().replace('"proof_sha256": "', '"proof_sha256": "0'))
        page = here.get("/runs/run-1/sample?model=qed-nano&problem=imo-0000&index=0").text
        assert "for another proof" in page
        (row,) = map(json.loads, here.get("/runs/run-1/grades.jsonl").text.splitlines())
        assert row["changed"] is True

    def test_the_export_stands_alone(self, here):
        self.give(here)
        (row,) = map(json.loads, here.get("/runs/run-1/grades.jsonl").text.splitlines())
        assert (row["score"], row["grader"], row["problem_id"]) == (5, "Ada", "imo-0001")
        assert "abc = 1" in row["problem"] and "unknowncommand" in row["proof"]
        assert json.loads(row["rubric"])["checkpoints"]

    def test_a_grader_evaluation_reads_the_export(self, here, tmp_path):
        self.give(here)
        path = tmp_path / "export.jsonl"
        path.write_text(here.get("/runs/run-1/grades.jsonl").text)
        (proof,) = proofs_of(GradedProofs(uri=str(path)), path, tmp_path)
        assert (proof.human, proof.author) == (5.0, "qed-nano") and "unknowncommand" in proof.proof

    @pytest.mark.parametrize(
        "fields",
        [
            {"score": "8"}, {"score": ""}, {"score": "5.5"}, {"score": "²"}, {"grader": " "}, {"grader": "x" * 81},
            {"note": "x" * 20_001},
        ],
    )  # fmt: skip
    def test_what_is_no_grade_is_refused_with_a_reason(self, here, artifact, fields):
        answer = self.give(here, **fields)
        assert answer.status_code == 422 and ("give" in answer.text or "fit" in answer.text)
        assert not grades_path(artifact).exists()

    @pytest.mark.parametrize(
        ("fields", "headers"),
        [
            ({"token": "guessed"}, {}), ({"token": ""}, {}), ({}, {"origin": "http://evil.example"}),
            ({}, {"origin": "null"}), ({}, {"sec-fetch-site": "cross-site"}), ({}, {"sec-fetch-site": "same-site"}),
            ({"note": "x" * 200_000}, {}),
        ],
    )  # fmt: skip
    def test_forms_of_others_are_refused(self, here, artifact, fields, headers):
        assert self.give(here, headers, **fields).status_code == 403
        assert not grades_path(artifact).exists()


def test_places_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UsageError, match="doesn't exist"):
        make_app([tmp_path / "none"])
