from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from qednano.data.schema import SCHEMA, ProblemRow, read_rows, to_table
from qednano.errors import DataError

ROWS = [
    ProblemRow(id="1", problem="P", solutions=["a", "b"], answer="4", rubric="[]", reference="R", difficulty=2),
    ProblemRow(id="2", problem="Q"),
]


def test_rows_survive_parquet(tmp_path):
    pq.write_table(to_table(ROWS), tmp_path / "train.parquet")
    assert list(read_rows(tmp_path / "train.parquet")) == ROWS
    assert pq.read_schema(tmp_path / "train.parquet").equals(SCHEMA)


def test_a_jsonl_file_with_the_same_names_is_read_alike(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "problem": "P", "solutions": ["a"], "more": 1}\n\n')
    assert list(read_rows(f"file://{tmp_path}/rows.jsonl")) == [ProblemRow(id="1", problem="P", solutions=["a"])]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", '{"id": "1", "problem": "P"}\n{"id": "2"}\n', "rows.jsonl line 2 has no 'problem'"),
        ("rows.jsonl", "{\n", "rows.jsonl line 1 is not JSON"),
        ("rows.jsonl", "[]\n", "rows.jsonl line 1 is not a JSON object"),
        ("rows.parquet", "x", "rows.parquet can't be read as Parquet"),
        ("rows.txt", "x", "rows.txt is not a .parquet or .jsonl file"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        list(read_rows(tmp_path / name))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="absent.parquet doesn't exist"):
        list(read_rows(tmp_path / "absent.parquet"))


def test_a_parquet_file_of_something_else_is_refused(tmp_path):
    pq.write_table(to_table(ROWS).select(["id"]), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="has no column 'problem'"):
        list(read_rows(tmp_path / "other.parquet"))
