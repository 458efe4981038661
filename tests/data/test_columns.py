"""What a source's columns mean: files of the published sets, of the known benchmarks, and our own load as they are."""

from __future__ import annotations

import json

import pytest

from qednano.api.proofdataset import Columns
from qednano.data.columns import Record, row_of
from qednano.data.layouts import FINE_PROOFS_RL, FINE_PROOFS_SFT, convert
from qednano.data.schema import Candidate, ProblemRow, to_table
from qednano.data.show import rows_of
from qednano.errors import DataError

SFT = {
    "problem": "Prove $1=1$.",
    "reasoning_content": "Hm.",
    "proof": "Reflexivity.",
    "category": "Algebra",
    "competition": "IMO-2023",
    "gemini-3-pro-grade": 7,
    "qwen3-4b-thinking-reward@128": 0.5,
    "source": "aops",
    "messages": [],
}
RL = {
    "problem": "Prove $1=1$.",
    "source": "olympiads",
    "rubrics": "1. States reflexivity (7 points).",
    "scores": [7, 0],
    "rewards": [1.0, 0.0],
    "num_rewards": 2,
    "reward_mean": 0.5,
    "reward_std": 0.5,
}
PROOFBENCH = {"Problem ID": "PB-1", "Problem": "P", "Solution": "S", "Grading guidelines": "G", "Short Answer": "4"}


def row(values, **columns):
    return row_of(Record("rows.parquet row 1", values), Columns.model_validate(columns), "mine")


def test_a_row_of_fineproofs_sft_keeps_proof_thinking_grade_and_difficulty():
    found = row(SFT)
    assert (found.solutions, found.reasoning, found.scores) == (["Reflexivity."], ["Hm."], [7.0])
    assert (found.mean_reward, found.source) == (0.5, "aops")
    assert json.loads(found.meta) == {
        "category": "Algebra",
        "competition": "IMO-2023",
        "from": "mine",
        "where": "rows.parquet row 1",
    }


def test_a_row_of_fineproofs_rl_keeps_marking_scheme_and_rewards():
    found = row(RL)
    assert (found.rubric, found.mean_reward, found.attempts) == ("1. States reflexivity (7 points).", 0.5, 2)
    assert (found.solutions, found.scores) == ([], [])  # the scores are of attempts whose texts it doesn't have


def test_a_row_of_a_benchmark_keeps_what_graders_need():
    found = row(PROOFBENCH)
    assert (found.id, found.problem, found.reference, found.rubric, found.answer) == ("PB-1", "P", "S", "G", "4")


def test_a_row_of_ours_comes_back_whole(tmp_path):
    import pyarrow.parquet as pq

    ours = ProblemRow(
        "p1", "P", ["one", "two"], "4", "{}", "R", 3, "aops", '{"duplicates": ["x"], "from": "aops"}', ["a", ""],
        [7.0, None], [Candidate("proof", score=3.0, votes=[3.0])], 0.5, 0.25, 4,
    )  # fmt: skip
    pq.write_table(to_table([ours]), tmp_path / "train.parquet")
    assert list(rows_of(tmp_path / "train.parquet")) == [ours]


def test_blank_proofs_go_with_what_belongs_to_them():
    found = row(
        {"problem": "P", "solutions": ["one", " ", "two"], "reasoning": ["a", "b", "c"], "scores": [1, 2, None]}
    )
    assert (found.solutions, found.reasoning, found.scores) == (["one", "two"], ["a", "c"], [1.0, None])


def test_an_empty_name_takes_no_column():
    assert row(SFT, reasoning="", source="").reasoning == []
    assert row(SFT, source="").source == "mine"


@pytest.mark.parametrize(
    ("values", "columns", "said"),
    [
        ({"problem": "P", "solution": ["a", "b"], "reasoning": "x"}, {}, "'reasoning' has 1 values for 2 solutions"),
        (
            {"problem": "P", "solution": "a", "grade": "good"},
            {"score": "grade"},
            "'grade' is neither number nor a list",
        ),
        ({"problem": "P"}, {"meanReward": "m"}, "has no 'm', which columns.meanReward names"),
        ({"problem": "P"}, {"meta": ["year"]}, "has no 'year', which columns.meta names"),
    ],
)
def test_a_column_that_does_not_fit_is_named(values, columns, said):
    with pytest.raises(DataError, match=said):
        row(values, **columns)


@pytest.mark.parametrize(("schema", "values"), [(FINE_PROOFS_SFT, SFT), (FINE_PROOFS_RL, RL)])
def test_the_layouts_have_the_columns_of_the_published_sets(schema, values):
    assert schema.names == list(values)


def test_a_layout_has_a_record_a_proof_or_a_problem(tmp_path):
    import pyarrow.parquet as pq

    from qednano.api.proofdataset import Layout

    rows = [
        ProblemRow("a", "P", ["one", "two"], reasoning=["think", ""], scores=[7.0, 6.5], source="s"),
        ProblemRow("b", "Q", rubric="R", candidates=[Candidate("x", score=7.0), Candidate("y", score=0.0)]),
    ]
    assert convert(rows, tmp_path / "sft.parquet", Layout.FINE_PROOFS_SFT) == 2
    first, second = pq.read_table(tmp_path / "sft.parquet").to_pylist()
    assert first["messages"][1]["content"] == "<think>\nthink\n</think>\n\none"
    assert (second["proof"], second["gemini-3-pro-grade"], second["reasoning_content"]) == ("two", 6, "")
    assert convert(rows, tmp_path / "rl.parquet", Layout.FINE_PROOFS_RL) == 2
    _, second = pq.read_table(tmp_path / "rl.parquet").to_pylist()
    assert (second["rewards"], second["reward_mean"], second["reward_std"], second["num_rewards"]) == (
        [1, 0],
        0.5,
        0.5,
        2,
    )
