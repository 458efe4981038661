"""`qednano compare`: two models problem by problem."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qednano.evals.reader import EvaluationReader
from qednano.evals.statistics import compare
from tests.cli.test_commands import here
from tests.view.artifact import write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, "first", models={"qed-nano": 0.8, "base": 0.4}, problems=12, samples=2)
    write_run(folder, "second", models={"qed-sft": 0.6}, seed=7, problems=12, samples=2)
    return folder


def test_two_runs_are_compared_on_the_problems_that_both_answered(root: Path) -> None:
    done = here("compare", "first", "second", "--root", root, "-o", "json")
    found = json.loads(done.stdout)
    readers = [
        EvaluationReader(next((root / "default/evalrun").glob(f"{name}-*")) / "artifact")
        for name in ("first", "second")
    ]
    sides = [dict(zip(reader.samples.problems, reader.samples.means[0], strict=True)) for reader in readers]
    shared = [name for name in sides[0] if name in sides[1]]
    expected = compare([float(sides[0][name]) for name in shared], [float(sides[1][name]) for name in shared])
    assert found["problems"] == len(shared) == len(found["lines"])
    assert found["difference"]["mean"] == pytest.approx(expected.difference.mean)
    assert found["p_value"] == pytest.approx(expected.p_value)
    assert (found["better"], found["worse"], found["equal"]) == (expected.better, expected.worse, expected.equal)
    assert (found["first"]["model"], found["second"]["model"]) == ("qed-nano", "qed-sft")
    for line in found["lines"]:
        assert line["difference"] == pytest.approx(sides[0][line["problem"]] - sides[1][line["problem"]])


def test_a_single_run_is_compared_with_its_baseline_and_lists_what_is_asked_for(root: Path) -> None:
    worse = json.loads(here("compare", "first:base", "first:qed-nano", "--root", root, "-o", "json").stdout)
    own = json.loads(here("compare", "evr/first", "--root", root, "-o", "json").stdout)
    assert own["second"]["model"] == "base" and own["difference"]["mean"] == pytest.approx(-worse["difference"]["mean"])
    better = json.loads(here("compare", "first", "--who", "better", "--root", root, "-o", "json").stdout)["lines"]
    assert len(better) == own["better"] and all(line["difference"] > 0 for line in better)
    text = here("compare", "first", "--root", root, "--problems", "3").stdout
    assert text.startswith("qed-nano (first) against base (first), on 12 problems\ndifference +")
    heading = text.splitlines().index("3 problems with the largest differences")
    assert len(text.splitlines()[heading + 2 :]) == 3
    by_path = here("compare", own["first"]["artifact"], "-o", "json")
    assert json.loads(by_path.stdout)["difference"] == own["difference"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody",), "there is no run nobody under"),
        (("second",), "second has no baseline to compare with: name a second run"),
        (("first:gpt", "second"), "first has no model 'gpt'; its models are: qed-nano, base"),
    ],
)
def test_what_can_not_be_compared_is_said(root: Path, arguments: tuple[str, ...], told: str) -> None:
    done = here("compare", *arguments, "--root", root)
    assert (done.returncode, done.stdout) == (64, "")
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_runs_without_a_shared_problem_are_not_compared(root: Path, tmp_path: Path) -> None:
    artifact = next((root / "default/evalrun").glob("second-*")) / "artifact"
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    other = tmp_path / "artifact"
    shutil.copytree(artifact, other)
    table = pq.read_table(other / "results.parquet")
    renamed = pa.array([f"other-{name}" for name in table["problem"].to_pylist()])
    pq.write_table(
        table.set_column(table.schema.get_field_index("problem"), "problem", renamed), other / "results.parquet"
    )
    done = here("compare", "second", other, "--root", root)
    assert done.returncode == 64
    assert "share no graded problem: compare evaluations of the same benchmark" in done.stderr
