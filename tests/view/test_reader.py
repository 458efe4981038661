"""Reading artifacts piece by piece, also old ones, and trees of calls."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qednano.errors import DataError
from qednano.evals.human import HumanGrade, read_grades, save_grade
from qednano.evals.reader import EvaluationReader, tree
from qednano.evals.scores import SampleRow, problem_means
from tests.view.artifact import problems_of, samples_of, write_artifact


@pytest.fixture(scope="module")
def rows() -> list[SampleRow]:
    return list(samples_of({"m": 0.7, "n": 0.3}, problems_of(40), 3, 0, 5000))


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> EvaluationReader:
    return EvaluationReader(
        write_artifact(tmp_path_factory.mktemp("a") / "artifact", "x", {"m": 0.7, "n": 0.3}, 40, 3, 0, 5000)
    )


def test_numbers_and_texts_are_those_that_were_written(reader, rows):
    assert pq.read_metadata(reader.folder / "results.parquet").num_row_groups > 1
    for place in (0, 63, 64, 130, len(rows) - 1):
        found = reader.sample(place)
        assert (found["model"], found["problem"], found["index"]) == rows[place].key
        assert found["proof"] == rows[place].proof and found["reasoning"] == rows[place].reasoning
        assert reader.samples.row(*rows[place].key) == place
    for number, model in enumerate(("m", "n")):
        expected = problem_means([row for row in rows if row.model == model])
        found = {
            name: mean
            for name, mean in zip(reader.samples.problems, reader.samples.means[number], strict=True)
            if not np.isnan(mean)
        }
        assert found == pytest.approx(expected)


def test_an_artifact_of_before_in_one_row_group_is_read(tmp_path, rows):
    old = [
        {name: value for name, value in vars(row).items()
         if name not in ("reasoning", "calls", "failed_calls", "cost", "stop", "notes", "path")}
        for row in rows
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(old), tmp_path / "results.parquet")
    reader = EvaluationReader(tmp_path)
    assert reader.sample(200)["proof"] == rows[200].proof and reader.sample(200)["reasoning"] == ""
    assert np.isnan(reader.samples.numbers["cost"]).all()
    assert reader.calls("m", "imo-0000", 0) == [] and reader.problem("imo-0000")["problem"] == ""


def test_words_are_found_in_any_case(reader, rows):
    expected = [place for place, row in enumerate(rows) if "unknowncommand" in row.proof]
    assert reader.search("UNKNOWNCOMMAND") == expected and len(expected) == 2
    assert reader.search("(.*") == [], "words, no pattern"


def test_calls_of_a_sample_are_read_without_what_was_said(reader):
    calls = reader.calls("n", "imo-0007", 2)
    assert [call["number"] for call in calls] == list(range(6)) and "text" not in calls[0]
    call = reader.call("n", "imo-0007", 2, 3)
    assert call["path"] == "round-1/proof-2/verify-0" and call["text"]
    assert reader.call("n", "imo-0007", 2, 99) is None


def test_a_tree_has_parents_first_and_bare_branches():
    paths = ["a/b", "a", "c/d/e", "a/f"]
    found = [(depth, path, call is not None) for depth, path, call in tree([{"path": path} for path in paths])]
    assert found == [
        (0, "a", True), (1, "a/b", True), (1, "a/f", True),
        (0, "c", False), (1, "c/d", False), (2, "c/d/e", True),
    ]  # fmt: skip


def test_a_deep_tree_is_no_problem():
    deep = "/".join("x" * 3000)
    assert len(list(tree([{"path": deep}]))) == 3000


def test_files_that_are_no_results_are_refused(tmp_path):
    with pytest.raises(DataError, match="not the artifact of an EvalRun"):
        _ = EvaluationReader(tmp_path).samples
    (tmp_path / "results.parquet").write_text("no")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        _ = EvaluationReader(tmp_path).samples


def test_grades_of_many_at_once_are_all_kept(tmp_path):
    path = tmp_path / "artifact.grades.jsonl"

    def give(number: int) -> None:
        for index in range(8):
            save_grade(path, HumanGrade("m", "p", index, 3, "", f"person {number}", "2026-01-01", ""))

    threads = [threading.Thread(target=give, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({grade.key for grade in read_grades(path)}) == 48
