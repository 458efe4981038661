"""What a person sees of a dataset: rows on a terminal, and pages that no row can change."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qednano.api.proofdataset import ProofDatasetSpec
from qednano.cli import app
from qednano.data.build import build_dataset
from qednano.data.report import side_by_side
from qednano.data.schema import ProblemRow, to_table
from qednano.data.shards import Build
from qednano.data.show import printable
from qednano.errors import UsageError
from qednano.progress import Reporter

EVIL = 'Find <script>alert("x")</script> all $a<b$ [bold]now[/bold] \x1b[2J with \\frac{1}{2}.'


@pytest.fixture
def dataset(tmp_path):
    rows = [
        ProblemRow(
            "p1", EVIL, ["First \\le proof.", "second", "third"], "4", '{"total": 7}', scores=[7.0, None, 6.0],
            reasoning=["Let me think.", "", ""], source="aops", mean_reward=0.25, attempts=128, meta='{"year": 2023}',
        ),
        ProblemRow("p2", "x" * 5000),
    ]  # fmt: skip
    pq.write_table(to_table(rows), tmp_path / "train.parquet")
    pq.write_table(to_table(rows[1:]), tmp_path / "test.parquet")
    return tmp_path


def show(*arguments):
    return CliRunner().invoke(app, ["data", "show", *map(str, arguments)])


def test_rows_are_told_readably_with_latex_as_it_is(dataset):
    told = show(dataset, "--count", 1).stdout
    assert "── p1 ──" in told and "\\frac{1}{2}" in told and "First \\le proof." in told
    assert "mean reward 0.25 of 128" in told and "solution 1 of 3, 7/7" in told and "and 1 more solutions" in told
    assert "Let me think." in told and '"total": 7' in told and "year 2023" in told
    assert "p2" not in told
    assert "third" in show(dataset, "--count", 1, "--full").stdout


def test_a_row_can_not_steer_the_terminal(dataset):
    told = show(dataset).stdout
    assert "\x1b" not in told and "\\x1b[2J" in told and "[bold]now[/bold]" in told
    assert printable("a\u202eb\x07\n") == "a\\x202eb\\x07\n"


def test_a_split_a_row_and_a_program_can_be_meant(dataset):
    assert show(dataset, "--split", "test").stdout.count("──") == 2
    told = show(dataset / "train.parquet", "--id", "p2").stdout
    assert "p1" not in told and "(3,800 more characters)" in told
    first, second = map(json.loads, show(dataset, "--json").stdout.splitlines())
    assert (first["problem"], first["meta"], first["rubric"]) == (EVIL, {"year": 2023}, {"total": 7})
    assert second["id"] == "p2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "exam"], "has no split 'exam'; it has: test, train"),
        (["--start", "9"], "has no row at position 9"),
        (["--id", "zz"], "has no row with the id zz"),
    ],
)
def test_what_is_not_there_is_said(dataset, arguments, said):
    result = show(dataset, *arguments)
    assert isinstance(result.exception, UsageError) and said in str(result.exception)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page_has_the_rows_by_stage_with_what_was_dropped_and_why_and_runs_nothing(tmp_path):
    rows = [{"id": f"r{n}", "problem": f"Prove that ${n}+{n}={2 * n}$, please."} for n in range(30)]
    rows += [
        {"id": "<i>evil</i>", "problem": EVIL + " https://example.org"},
        {"id": "twice", "problem": rows[3]["problem"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = ProofDatasetSpec.model_validate(
        {
            "sources": [{"name": "raw", "files": {"uris": [str(tmp_path / "rows.jsonl")]}}],
            "stages": [{"filter": {"drop": ["HasLink"]}}, {"deduplicate": {}}, {"filter": {"minCharacters": 28}}],
            "splits": [{"name": "train", "problems": 10}],
        }
    )
    build_dataset(spec, "x", Build(tmp_path / "run", Reporter(), lambda: None, lambda: None))
    artifact = tmp_path / "run/artifact"
    page = Tags((artifact / "report.html").read_text())
    assert "script" not in page.found and "i" in page.found  # bars are <i>, and none of them is the row's
    assert '<script>alert("x")</script>' in page.text and "<i>evil</i>: it has a link" in page.text
    assert "From 32 rows to 10" in page.text and "rows that passed every stage are in no split" in page.text
    for stage, before, after in (("filter", 32, 31), ("deduplicate", 31, 30), ("filter-2", 30, 25)):
        assert f"{before} rows in, {after} out" in page.text and (artifact / f"reports/{stage}.jsonl").is_file()
    pairs = Tags((artifact / "reports/deduplicate.html").read_text())
    assert "twice: r3 is the same problem and stays: it comes first" in pairs.text
    card = (artifact / "README.md").read_text()
    assert "| filter-2 | 30 | 25 | dropped TooShort: 5 |" in card


def test_texts_side_by_side_are_escaped_and_marked_where_they_differ():
    assert side_by_side("a <b> c", "a d c") == ("a <mark>&lt;b&gt;</mark> c", "a <mark>d</mark> c")
    assert side_by_side("a " * 3000, "<")[1] == "&lt;"  # too long to be compared
