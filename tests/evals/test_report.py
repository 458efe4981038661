"""The report, made from an artifact of real problems and the real checker's grades, and looked at in a real browser."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qednano.artifacts import write_json
from qednano.data.schema import ProblemRow, to_table
from qednano.evals import report
from qednano.evals.reader import EvaluationReader
from qednano.evals.report import About, choose_examples, headline, render
from qednano.evals.results import RESULTS, write_groups
from qednano.evals.scores import SampleRow, Scores, score_all
from qednano.tiny import teacher
from qednano.tiny.checker import check
from qednano.tiny.problems import generate
from tests.view.artifact import write_artifact

MODELS = {"rl": 15, "untrained": None, "sft": 60}  # percent of flawed proofs; None writes nonsense
EVIL = "</pre><script>alert(1)</script><img src=https://evil.example/x>"


def graded(problems: list[ProblemRow], raw: dict[str, object], samples: int) -> list[SampleRow]:
    rng, rows = random.Random(0), []
    for model, flawed in MODELS.items():
        for row in problems:
            for index in range(samples):
                proof = EVIL if flawed is None else teacher.write(raw[row.id], rng, flawed)
                result = check(row.problem, proof)
                details = {
                    "checkpoints": [asdict(mark) for mark in result.checkpoints],
                    "deductions": result.deductions,
                }
                rows.append(
                    SampleRow(
                        model, row.id, index, f"thinking {EVIL}</think>{proof}", proof, result.score,
                        result.error or "complete and correct", json.dumps(details),
                        "length" if flawed is None else "stop", 40, len(proof) // 2, 0.5,
                    )
                )  # fmt: skip
    return rows


ABOUT = About("tiny-eval", "tiny/test", "tiny-divisibility", "temperature 1.0, top-p 1.0")


def put(folder: Path, models: list[str], problems: list[ProblemRow], rows: list[SampleRow], samples: int) -> Scores:
    """The files that a report is made from."""
    scores = score_all(models, rows, {row.id: row.difficulty for row in problems}, samples)
    write_groups(folder / "results.parquet", RESULTS, ([asdict(row)] for row in rows))
    pq.write_table(to_table(problems), folder / "problems.parquet")
    write_json(folder / "scores.json", scores.as_json())
    return scores


@pytest.fixture(scope="module")
def asked() -> tuple[list[ProblemRow], list[SampleRow]]:
    raw = {problem.id: problem for problem in generate(seed=1, count=40, fold="heldout")}
    problems = [ProblemRow(id=p.id, problem=p.text, difficulty=p.difficulty) for p in raw.values()]
    return problems, graded(problems, raw, samples=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def scores(asked, folder) -> Scores:
    return put(folder, list(MODELS), *asked, 4)


@pytest.fixture(scope="module")
def page(folder, scores) -> str:
    return render(folder, ABOUT)


def test_the_page_says_what_was_found(page, scores):
    first = scores.models[0]
    assert f"rl scores {100 * first.score.mean:.1f} %" in headline(scores)
    assert headline(scores) in page
    for model in scores.models:
        assert f"{model.name}: {100 * model.score.mean:.1f} %" in page
    assert "95 % interval" in page and "Problem by problem" in page


def test_every_problem_has_a_row_with_the_score_of_each_sample(page, asked, scores):
    problems, rows = asked
    assert all(f'<th scope="row">{problem.id}' in page or f">{problem.id}</a>" in page for problem in problems)
    table = page[page.index('id="problems"') :]
    assert table[: table.index("</table>")].count('class="score ') == len(rows)


def test_whatever_models_write_stays_text(page):
    assert "<script" not in page, "this report has no formula, so it needs no script"
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<img") == 0


class Links(HTMLParser):
    """Whatever a page would fetch or follow, but its own anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            f"{tag} {name}"
            for name, value in attrs
            if name in ("src", "href", "srcset", "action", "style") and not (value or "").startswith("#")
        ]


@pytest.fixture(scope="module")
def olympiad(tmp_path_factory) -> str:
    """A report with formulas, marking schemes and an attack."""
    final = write_artifact(tmp_path_factory.mktemp("olympiad") / "artifact", samples=2, problems=12)
    return (final / "report.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(page, olympiad):
    for text in (page, olympiad):
        links = Links()
        links.feed(text)
        assert links.found == []
        assert "default-src 'none'" in unescape(text) and "unsafe-inline" not in text and "@import" not in text
        assert text.count("url(") == text.count("url(data:font/woff2")


def test_the_report_of_many_long_proofs_stays_small(tmp_path):
    rows, problems = [], []
    for number in range(300):
        problems.append(ProblemRow(id=f"p{number}", problem="Prove $1 = 1$."))
        proof = "It is clear. " * 20_000
        rows.append(SampleRow("m", f"p{number}", 0, "", proof, number % 8, "", "{}", "stop", 1, 1, 1.0))
    put(tmp_path, ["m"], problems, rows, 1)
    text = render(tmp_path, ABOUT)
    assert len(text) < 1_500_000
    assert text.count("<article") <= report.MOST_PROOFS
    assert f"The first {report.LONGEST_PROOF:,} of 260,000 characters" in text


def test_examples_are_chosen_by_rule_and_each_once(folder, asked, scores):
    problems, rows = asked
    examples = choose_examples(EvaluationReader(folder), list(MODELS))
    assert len({example.problem["id"] for example in examples}) == len(examples) == 6
    means: dict[str, list[float]] = {}
    for row in rows:
        if row.model == "rl":
            means.setdefault(row.problem, []).append(row.score)
    lowest = sorted(sum(values) for values in means.values())
    worst = [sum(means[example.problem["id"]]) for example in examples if "lowest" in example.why]
    assert worst and max(worst) <= lowest[5], "at most four of the lowest were chosen by another rule before"
    assert all([row["index"] for row, _ in example.proofs] == [0, 0, 0] for example in examples)


def test_one_model_and_one_sample_make_a_page_too(asked, tmp_path):
    problems, rows = asked
    put(tmp_path, ["sft"], problems, [row for row in rows if row.model == "sft" and row.index == 0], 1)
    page = render(tmp_path, ABOUT)
    assert "1 sample each" in page and "against each baseline" not in page


def test_the_report_sets_its_formulas_on_a_screen_and_a_phone(olympiad, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(olympiad)
    complaints: list[str] = []
    for width, scheme, ground in ((1200, "light", "rgb(246, 247, 248)"), (360, "dark", "rgb(15, 19, 23)")):
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        view.on("console", lambda message: complaints.append(message.text))
        view.on("request", lambda request: complaints.append(request.url.partition(",")[0]))
        view.goto(path.as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        view.locator("article").first.scroll_into_view_if_needed()
        view.locator(".math.set .katex").first.wait_for(state="attached")
        assert view.evaluate("window.hacked") is None
        view.close()
    outside = [text for text in complaints if not text.startswith(("data:font/woff2", path.as_uri()))]
    assert outside == [], "no request, no message"
