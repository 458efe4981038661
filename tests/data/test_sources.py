from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qednano.api.proofdataset import Columns, HubSource
from qednano.data import hub
from qednano.data.columns import Record, row_of
from qednano.data.files import Files
from qednano.errors import ConfigError, DataError, Unavailable

ROWS = [{"problem": "Prove that 1 = 1.", "solution": "Trivial."}, {"problem": "Prove 2 | 4.", "solution": "4 = 2·2."}]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def columns(**names):
    return Columns.model_validate(names)


def read(uri, **names):
    return [row_of(record, columns(**names)) for record in Files().records([uri])]


def test_the_same_rows_come_out_of_every_format(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text('problem,solution\nProve that 1 = 1.,Trivial.\n"Prove 2 | 4.","4 = 2·2."\n')
    told = [
        [(row.problem, row.solutions) for row in read(str(tmp_path / name))]
        for name in ("rows.jsonl", "rows.jsonl.gz", "rows.parquet", "rows.csv")
    ]
    assert all(rows == [("Prove that 1 = 1.", ["Trivial."]), ("Prove 2 | 4.", ["4 = 2·2."])] for rows in told)


def test_files_follow_one_another_and_each_row_says_where_it_stood(tmp_path):
    one, two = jsonl(tmp_path / "one.jsonl", ROWS), jsonl(tmp_path / "two.jsonl", ROWS)
    where = [record.where for record in Files().records([one, two])]
    assert where == ["one.jsonl line 1", "one.jsonl line 2", "two.jsonl line 1", "two.jsonl line 2"]


def test_columns_are_taken_by_the_names_the_spec_gives(tmp_path):
    uri = jsonl(
        tmp_path / "rows.jsonl",
        [{"nr": 7, "question": "Q?", "proofs": ["one", "two"], "official": "R", "scheme": [{"points": 7}], "ans": 42}],
    )
    [row] = read(
        uri, id="nr", problem="question", solution="proofs", reference="official", rubric="scheme", answer="ans"
    )
    assert (row.id, row.problem, row.solutions, row.reference, row.answer) == ("7", "Q?", ["one", "two"], "R", "42")
    assert json.loads(row.rubric) == [{"points": 7}]


def test_a_row_without_id_is_named_by_its_content(tmp_path):
    first, second = read(jsonl(tmp_path / "rows.jsonl", ROWS))
    again = read(jsonl(tmp_path / "other.jsonl", ROWS[:1]))[0]
    assert first.id == again.id != second.id


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", '{"problem": "P"}\n\n{"question": "Q"}\n', r"rows.jsonl line 3 has no 'problem'.*'question'"),
        ("rows.jsonl", '{"problem": "P"}\n{"problem":\n', "rows.jsonl line 2 is not JSON"),
        ("rows.jsonl", '["P"]\n', "rows.jsonl line 1 is not a JSON object"),
        ("rows.jsonl", '{"problem": 5}\n', "rows.jsonl line 1: 'problem' is int, not text"),
        ("rows.jsonl", '{"problem": " "}\n', "rows.jsonl line 1 has no 'problem'"),
        ("rows.jsonl", '{"problem": "P", "solution": [1]}\n', "line 1: 'solution' is neither text nor a list of texts"),
        ("rows.jsonl", "[" * 100_000 + "\n", "rows.jsonl line 1 is not JSON"),
        ("rows.csv", "problem\nP\nP,Q\n", "rows.csv line 3 has more fields than the header"),
        ("rows.csv", "question\nP\n", r"rows.csv line 2 has no 'problem'.*'question'"),
        ("rows.parquet", "no parquet", "rows.parquet can't be read as Parquet"),
        ("rows.txt", "P", "rows.txt is not a .jsonl, .parquet or .csv file"),
    ],
)
def test_an_unusable_row_is_named_with_file_line_and_column(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read(str(tmp_path / name))


def test_bytes_that_are_not_utf_8_are_refused_by_file(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"problem": "\xff"}\n')
    with pytest.raises(DataError, match="rows.jsonl is not UTF-8"):
        read(str(tmp_path / "rows.jsonl"))


def test_a_missing_file_is_named_by_its_path(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/absent.jsonl doesn't exist"):
        read(f"{tmp_path}/absent.jsonl")


def test_a_column_that_the_spec_names_must_be_there_and_a_default_one_may_be_absent():
    record = Record("rows.jsonl line 4", {"problem": "P"})
    assert row_of(record, columns()).solutions == []
    with pytest.raises(DataError, match=r"line 4 has no 'proof', which columns.solution names"):
        row_of(record, columns(solution="proof"))


def test_a_dataset_of_the_hubs_library_is_read_as_a_stream(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    source = HubSource(id=str(tmp_path))
    rows = [row_of(record, columns()) for record in hub.records(source, hub.commit_of(source))]
    assert [row.problem for row in rows] == [row["problem"] for row in ROWS]
    assert rows[1].source.endswith("[train] row 2")


def test_a_split_that_the_dataset_lacks_is_named(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS)
    source = HubSource(id=str(tmp_path), split="exam")
    with pytest.raises(ConfigError, match="has no split 'exam'"):
        list(hub.records(source, "main"))


def test_a_hub_that_does_not_answer_is_an_unavailable_dependency(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="does not answer for someone/proofs"):
        hub.commit_of(HubSource(id="someone/proofs"))
