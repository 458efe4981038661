"""The report, made of real problems and the real checker's grades, and looked at in a real browser."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from html.parser import HTMLParser

import pytest

from qednano.data.schema import ProblemRow
from qednano.evals.report import ReportInput, choose_examples, headline, render
from qednano.evals.scores import SampleRow, score_all
from qednano.tiny import teacher
from qednano.tiny.checker import check
from qednano.tiny.problems import generate

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


@pytest.fixture(scope="module")
def data() -> ReportInput:
    raw = {problem.id: problem for problem in generate(seed=1, count=40, fold="heldout")}
    problems = [ProblemRow(id=p.id, problem=p.text, difficulty=p.difficulty) for p in raw.values()]
    rows = graded(problems, raw, samples=4)
    return ReportInput("tiny-eval", "tiny/test", "tiny-divisibility", "temperature 1.0, top-p 1.0", problems, rows)


@pytest.fixture(scope="module")
def scores(data):
    return score_all(list(MODELS), data.rows, {row.id: row.difficulty for row in data.problems}, samples=4)


@pytest.fixture(scope="module")
def page(data, scores) -> str:
    return render(data, scores)


def test_the_page_says_what_was_found(page, scores):
    first = scores.models[0]
    assert f"rl scores {100 * first.score.mean:.1f} %" in headline(scores)
    assert f"{100 * first.score.mean:.1f} %" in page
    for model in scores.models:
        assert model.name in page and f"{100 * model.score.low:.2f}%" in page
    assert "+" in page and "95 % interval" in page


def test_whatever_models_write_stays_text(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<img") == 0


class Links(HTMLParser):
    """Whatever a page would fetch or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_needs_nothing_from_elsewhere(page):
    links = Links()
    links.feed(page)
    assert links.found == []
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page


def test_examples_are_chosen_by_rule_and_each_once(data):
    examples = choose_examples(data, list(MODELS))
    assert len({example.problem.id for example in examples}) == len(examples) == 6
    means = {}
    for row in data.rows:
        if row.model == "rl":
            means.setdefault(row.problem, []).append(row.score)
    lowest = min(sum(values) for values in means.values())
    worst = [example for example in examples if "lowest" in example.why]
    assert any(sum(means[example.problem.id]) == lowest for example in worst) or any(
        sum(means[example.problem.id]) == lowest for example in examples
    )
    assert all([row.index for row, _ in example.proofs] == [0, 0, 0] for example in examples)


def test_one_model_and_one_sample_make_a_page_too(data):
    rows = [row for row in data.rows if row.model == "sft" and row.index == 0]
    alone = ReportInput("one", "b", "g", "s", data.problems, rows)
    page = render(alone, score_all(["sft"], rows, {}, samples=1))
    assert "1 sample each" in page and "against each baseline" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_fits_a_screen_and_a_phone(page, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "report.html"
    path.write_text(page)
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, scheme, ground in ((1200, "light", "rgb(247, 247, 245)"), (360, "dark", "rgb(16, 20, 24)")):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.on("console", lambda message: complaints.append(message.text))
            view.on("request", lambda request: complaints.append(request.url))
            view.goto(path.as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.evaluate("getComputedStyle(document.body).backgroundColor") == ground
            view.screenshot(path=tmp_path / f"report-{width}-{scheme}.png", full_page=True)
        browser.close()
    assert complaints == [path.as_uri()] * 2, "two visits, no other request, no message"
