"""Benchmarks in the shapes that they have on the Hub, as small datasets on this machine."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qednano.api.benchmark import Benchmark
from qednano.api.benchmarks import BENCHMARKS, KnownBenchmark
from qednano.errors import ConfigError, DataError
from qednano.evals.benchmark import load, problems_of, splits_of

IMO_PROOF = [
    {
        "Problem ID": f"PB-{level}-00{number}",
        "Problem": f"Prove {level} {number}.",
        "Solution": "By magic.",
        "Grading guidelines": "(Partial) 1. Tried.\n(Almost) 1. Nearly.",
        "Category": "Algebra",
        "Level": "pre-IMO",
        "Short Answer": "",
        "Source": "x",
    }
    for level in ("Basic", "Advanced")
    for number in (1, 2)
]
IMO_ANSWER = [
    {"Problem ID": "imo-bench-algebra-001", "Problem": "Find N.", "Short Answer": "3", "Category": "Algebra",
     "Subcategory": "Operation", "Source": "IMO Shortlist 2021"},
    {"Problem ID": "imo-bench-nt-001", "Problem": "Find M.", "Short Answer": "$2^k$", "Category": "Number theory",
     "Subcategory": "x", "Source": "y"},
]  # fmt: skip
PROOF_BENCH = [
    {"problem_id": identity, "problem": f"Prove {identity}.", "generator": generator, "model_solution": "text",
     "reference_solution": "By magic.", "expert_rating": 3, "marking_scheme": "1. one point", "response_number": 0,
     "generation_prompt": "p", "metadata": {"contest": identity[:4], "contest_year": year}}
    for identity, year in (("APMO-2023-2", "2023"), ("EGMO-2024-1", "2024"))
    for generator in ("o3", "R1")
]  # fmt: skip


def on_the_hub(monkeypatch, tmp_path, name, rows, splits=("train",)):
    """A dataset of one Parquet file a split on this machine, in place of the known benchmark's on the Hub."""
    folder = tmp_path / name
    (folder / "data").mkdir(parents=True)
    for split in splits:
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    known = BENCHMARKS[name]
    monkeypatch.setitem(
        BENCHMARKS, name, KnownBenchmark(str(folder), known.splits, meta=known.meta, split_by=known.split_by)
    )


def spec(**fields):
    return Benchmark.model_validate(fields)


def test_imo_proofbench_has_guidelines_references_and_its_two_halves(monkeypatch, tmp_path):
    on_the_hub(monkeypatch, tmp_path, "imo-proofbench", IMO_PROOF)
    benchmark = spec(known="imo-proofbench")
    problems = problems_of(benchmark, None, tmp_path / "run")
    assert [row.id for row in problems] == [row["Problem ID"] for row in IMO_PROOF]
    assert (problems[0].rubric, problems[0].reference) == (IMO_PROOF[0]["Grading guidelines"], "By magic.")
    assert problems[0].answer is None and problems[0].solutions == []
    assert splits_of(benchmark, problems)["PB-Advanced-001"] == {"set": "Advanced", "category": "Algebra"}
    assert json.loads((tmp_path / "run/benchmark-commit.json").read_text())


def test_imo_answerbench_has_answers(monkeypatch, tmp_path):
    on_the_hub(monkeypatch, tmp_path, "imo-answerbench", IMO_ANSWER)
    benchmark = spec(known="imo-answerbench", limit=2)
    problems = problems_of(benchmark, None, tmp_path)
    assert [row.answer for row in problems] == ["3", "$2^k$"]
    assert splits_of(benchmark, problems)["imo-bench-nt-001"] == {"category": "Number theory"}


def test_proofbench_has_each_problem_once_and_splits_by_year(monkeypatch, tmp_path):
    on_the_hub(monkeypatch, tmp_path, "proofbench", PROOF_BENCH, splits=("train", "best_of_n"))
    benchmark = spec(known="proofbench")
    problems = problems_of(benchmark, None, tmp_path)
    assert [row.id for row in problems] == ["APMO-2023-2", "EGMO-2024-1"]
    assert problems[0].rubric == "1. one point" and problems[0].solutions == []
    assert splits_of(benchmark, problems)["EGMO-2024-1"] == {
        "metadata.contest_year": "2024",
        "metadata.contest": "EGMO",
    }


def test_a_commit_is_kept_so_that_a_later_attempt_reads_the_same_rows(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("qednano.evals.hub_rows.hub.commit_of", lambda source: asked.append(source.revision) or "c1")
    read = []
    monkeypatch.setattr(
        "qednano.evals.hub_rows.hub.records", lambda source, commit: read.append((source.revision, commit)) or iter(())
    )
    for _ in range(2):
        with pytest.raises(DataError, match="no problems"):
            problems_of(spec(known="imo-answerbench", revision="v1"), None, tmp_path)
    assert (asked, read) == (["v1"], [("v1", "c1")] * 2)


def test_a_file_with_the_same_columns_is_read_from_csv_and_jsonl(tmp_path):
    path = tmp_path / "b.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, IMO_ANSWER[0])
        writer.writeheader()
        writer.writerows(IMO_ANSWER)
    assert [row.answer for row in load(path)] == ["3", "$2^k$"]
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"name": "q1", "statement": "Find x.", "year": 2025, "gold": 4}) + "\n")
    benchmark = spec(
        uri=str(own),
        columns={"id": "name", "problem": "statement", "answer": "gold", "meta": ["year"]},
        splitBy=["year"],
    )
    problems = problems_of(benchmark, own, tmp_path)
    assert (problems[0].id, problems[0].answer) == ("q1", "4")
    assert splits_of(benchmark, problems) == {"q1": {"year": "2025"}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "none is set"),
        ({"known": "imo-proofbench", "uri": "x.jsonl"}, "uri and known are set"),
        ({"uri": "x.jsonl", "revision": "v1"}, "goes with known"),
        ({"known": "gsm8k"}, "should match pattern"),
    ],
)
def test_a_benchmark_has_exactly_one_place(fields, words):
    with pytest.raises(ValueError, match=words):
        spec(**fields)


def test_a_column_that_is_not_there_is_named(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text('{"problem": "x"}\n')
    with pytest.raises(DataError, match="'year', which columns.meta names"):
        problems_of(spec(uri=str(own), columns={"meta": ["year"]}), own, tmp_path)


def test_an_unknown_split_of_a_hub_dataset_is_named(monkeypatch, tmp_path):
    on_the_hub(monkeypatch, tmp_path, "imo-answerbench", IMO_ANSWER)
    hub = {"id": str(tmp_path / "imo-answerbench"), "split": "nope"}
    with pytest.raises(ConfigError, match="no split 'nope'"):
        problems_of(spec(hub=hub), None, tmp_path)
