"""The stages between source and splits: what each does, what is told of it, and that a stop changes nothing."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from qednano import artifacts
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data import shards
from qednano.data.build import build_dataset
from qednano.data.columns import Record
from qednano.data.schema import read_rows
from qednano.data.shards import Build
from qednano.errors import DataError, Stopped
from qednano.progress import Reporter

INEQUALITY = "Let $a,b,c$ be positive reals with $a+b+c={}$. Prove that $a^4+b^4+c^4 \\ge 29$."
REWORDED = "Problem 2. Suppose x, y and z are positive reals with x + y + z = {}. Show that x^4 + y^4 + z^4 ≥ 29."


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def source_rows():
    """40 problems, 10 of them again in other words and with a solution, and rows for each stage to drop."""
    rows = [{"id": f"p{number}", "problem": INEQUALITY.format(100 + number)} for number in range(40)]
    rows += [{"id": f"d{n}", "problem": REWORDED.format(100 + n), "solution": "By power means."} for n in range(10)]
    rows += [
        {"id": "figure", "problem": "Find the area shown in the figure."},
        {"id": "choice", "problem": "Which of the following is prime?"},
        {"id": "russian", "problem": "Докажите, что число чётно для всех целых."},
        {"id": "tiny", "problem": "Prove."},
        {"id": "empty", "problem": "\u200b\u200b"},
        {
            "id": "post",
            "problem": "[b]Compute[/b] \\(7 \\cdot 11 \\cdot 13 \\cdot 17\\).\r\nSolution: It is \\(\\boxed{17017}\\).",
        },
    ]
    return rows


STAGES = {
    "normalise": {"splitSolution": True, "extractAnswer": True},
    "filter": {"minCharacters": 10, "languages": ["en"], "drop": ["HasFigure", "MultipleChoice"]},
    "deduplicate": {},
}


def spec_of(tmp_path, stages, train=36):
    benchmark = write(tmp_path / "bench.jsonl", [{"id": "b1", "problem": INEQUALITY.format(105)}])
    if "decontaminate" in stages:
        stages = {**stages, "decontaminate": {"benchmarks": [{"name": "bench", "uri": benchmark}]}}
    return ProofDatasetSpec.model_validate(
        {
            "sources": [{"name": "posts", "files": {"uris": [write(tmp_path / "posts.jsonl", source_rows())]}}],
            "splits": [{"name": "train", "problems": train}, {"name": "test", "problems": 4}],
            "stages": [{name: stage} for name, stage in stages.items()],
        }
    )


def build_at(path, check_stop=lambda: None, reporter=None):
    return Build(path, reporter or Reporter(), check_stop, lambda: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A build with all four stages: (folder, manifest, reporter)."""
    folder = tmp_path_factory.mktemp("whole")
    reporter = Reporter()
    spec = spec_of(folder, {**STAGES, "decontaminate": {}})
    return folder, build_dataset(spec, "posts", build_at(folder / "run", reporter=reporter)), reporter


def rows_of(folder):
    return {row.id: row for split in ("train", "test") for row in read_rows(folder / f"run/artifact/{split}.parquet")}


def test_every_stage_counts_its_rows_in_manifest_and_progress(whole):
    _, manifest, reporter = whole
    expected = {
        "read": (56, 56),
        "normalise": (56, 55),
        "filter": (55, 51),
        "deduplicate": (51, 41),
        "decontaminate": (41, 40),
    }
    for stage, (rows_in, rows_out) in expected.items():
        assert (manifest.metrics[f"rows/{stage}/in"], manifest.metrics[f"rows/{stage}/out"]) == (rows_in, rows_out)
    assert reporter.report().metrics == {"rows/in": 56, "rows/out": 40}
    assert any("bench.jsonl" in uri for uri in manifest.inputs)


def test_the_rows_that_are_left_are_the_best_ones_and_clean(whole):
    folder, _, _ = whole
    rows = rows_of(folder)
    assert not rows.keys() & {"figure", "choice", "russian", "tiny", "empty", "p0", "p5", "d5"}
    assert rows["d0"].solutions == ["By power means."]
    assert json.loads(rows["d0"].meta)["duplicates"] == ["p0"]
    post = rows["post"]
    assert post.problem == "Compute $7 \\cdot 11 \\cdot 13 \\cdot 17$."
    assert (post.solutions, post.answer) == (["It is $\\boxed{17017}$."], "17017")


def test_every_dropped_row_is_reported_with_its_cause_and_what_it_was_compared_with(whole):
    folder, _, _ = whole
    reports = folder / "run/artifact/reports"
    funnel = json.loads((reports / "stages.json").read_text())
    assert {key: value for key, value in funnel["filter"]["counts"].items() if key.startswith("dropped")} == {
        "dropped HasFigure": 1,
        "dropped Language": 1,
        "dropped MultipleChoice": 1,
        "dropped TooShort": 1,
    }
    dropped = [json.loads(line) for line in (reports / "deduplicate.jsonl").read_text().splitlines()]
    assert {entry["id"] for entry in dropped} == {f"p{number}" for number in range(10)}
    assert all("it has more solutions" in entry["reason"] for entry in dropped)
    (hit,) = [json.loads(line) for line in (reports / "decontaminate.jsonl").read_text().splitlines()]
    assert (hit["id"], hit["problem"], hit["other"]) == ("d5", REWORDED.format(105), INEQUALITY.format(105))
    page = (reports / "decontaminate.html").read_text()
    assert "Suppose" in page and "a^4+b^4+c^4" in page
    card = (folder / "run/artifact/README.md").read_text()
    assert "| filter | 55 | 51 |" in card and "shown in the figure" in card


@pytest.mark.parametrize("stages", [{**STAGES, "decontaminate": {}}, {"deduplicate": {}}, {"normalise": {}}])
def test_a_build_stopped_anywhere_ends_with_the_same_digest(tmp_path, monkeypatch, stages):
    monkeypatch.setattr(shards, "SHARD_ROWS", 8)
    monkeypatch.setattr(shards, "STOP_EVERY", 5)
    spec = spec_of(tmp_path, stages)
    expected = build_dataset(spec, "posts", build_at(tmp_path / "straight"))

    for patience in range(1, 60):
        left = patience % 13 + 1

        def impatient():
            nonlocal left
            left -= 1
            if left < 0:
                raise Stopped("asked to stop")

        try:
            manifest = build_dataset(spec, "posts", build_at(tmp_path / "broken", impatient))
        except Stopped:
            continue
        break
    else:
        manifest = build_dataset(spec, "posts", build_at(tmp_path / "broken"))
    assert patience > 2
    assert manifest.digest == expected.digest
    assert manifest.metrics == expected.metrics
    assert artifacts.verify(tmp_path / "broken/artifact").digest == expected.digest


def test_a_changed_benchmark_starts_the_stages_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 8)
    spec = spec_of(tmp_path, {"decontaminate": {}}, train=20)
    looks = iter(range(1000))

    def stop_late():
        if next(looks) == 5:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        build_dataset(spec, "posts", build_at(tmp_path / "run", stop_late))
    write(tmp_path / "bench.jsonl", [{"id": "b2", "problem": INEQUALITY.format(100)}])
    build_dataset(spec, "posts", build_at(tmp_path / "run"))
    log = (tmp_path / "run/artifact/reports/decontaminate.jsonl").read_text()
    assert {json.loads(line)["id"] for line in log.splitlines()} == {"p0", "d0"}


def test_too_few_rows_after_the_stages_are_an_error(tmp_path):
    with pytest.raises(DataError, match="ask for 104 problems"):
        build_dataset(spec_of(tmp_path, STAGES, train=100), "posts", build_at(tmp_path / "run"))


def test_an_empty_benchmark_is_an_error(tmp_path):
    spec = spec_of(tmp_path, {"decontaminate": {}})
    write(tmp_path / "bench.jsonl", [])
    with pytest.raises(DataError, match="benchmark bench of a decontaminate stage has no statements"):
        build_dataset(spec, "posts", build_at(tmp_path / "run"))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"filter": {"drop": ["Ugly"]}}, "HasFigure"),
        ({"filter": {"languages": ["english"]}}, "languages"),
        ({"deduplicate": {"similarityPercent": 10}}, "similarityPercent"),
        ({"decontaminate": {"benchmarks": []}}, "benchmarks"),
        ({"decontaminate": {"benchmarks": [{"name": "a", "uri": "x"}, {"name": "a", "uri": "y"}]}}, "twice"),
    ],
)
def test_a_stage_that_can_not_be_is_refused(stages, said):
    with pytest.raises(ValidationError, match=said):
        ProofDatasetSpec.model_validate(
            {
                "sources": [{"name": "a", "files": {"uris": ["a.jsonl"]}}],
                "splits": [{"name": "train", "problems": 1}],
                "stages": [stages],
            }
        )


def test_stages_come_in_the_order_of_the_spec_and_may_come_again(tmp_path):
    rows = [
        {"id": "a", "problem": "\u200bHi.", "solution": "Sure."},
        {"id": "b", "problem": "Prove that 2 = 2, please."},
    ]
    spec = ProofDatasetSpec.model_validate(
        {
            "sources": [{"name": "raw", "files": {"uris": [write(tmp_path / "rows.jsonl", rows)]}}],
            "stages": [{"filter": {"minCharacters": 4}}, {"normalise": {}}, {"filter": {"minCharacters": 4}}],
            "splits": [{"name": "all"}],
        }
    )
    manifest = build_dataset(spec, "x", build_at(tmp_path / "run"))
    told = {key: value for key, value in manifest.metrics.items() if key.endswith("/out")}
    assert told == {"rows/read/out": 2, "rows/filter/out": 2, "rows/normalise/out": 2, "rows/filter-2/out": 1}


def test_the_row_that_stays_can_have_the_proofs_of_the_others(tmp_path):
    rows = [
        {"id": "a", "problem": INEQUALITY.format(7), "solutions": ["One.", "Two."], "scores": [5, None]},
        {"id": "b", "problem": REWORDED.format(7), "solutions": ["Two.", "Three."], "reasoning": ["r", "s"]},
        {"id": "c", "problem": INEQUALITY.format(8)},
    ]
    spec = ProofDatasetSpec.model_validate(
        {
            "sources": [{"name": "raw", "files": {"uris": [write(tmp_path / "rows.jsonl", rows)]}}],
            "stages": [{"deduplicate": {"mergeSolutions": True}}],
            "splits": [{"name": "all"}],
        }
    )
    build_dataset(spec, "x", build_at(tmp_path / "run"))
    kept = {row.id: row for row in read_rows(tmp_path / "run/artifact/all.parquet")}
    assert kept.keys() == {"a", "c"}
    assert kept["a"].solutions == ["One.", "Two.", "Three."]
    assert (kept["a"].reasoning, kept["a"].scores) == (["", "", "s"], [5.0, None, None])
    assert json.loads(kept["a"].meta)["kept"] == "its statement is the shortest, so it has the least around it"


def test_a_known_benchmark_needs_only_its_name(tmp_path, monkeypatch):
    asked = []

    def records(source, commit):
        asked.append((source.id, source.split, commit))
        yield Record("row", {"Problem ID": f"PB-{len(asked)}", "Problem": INEQUALITY.format(100 + len(asked))})

    monkeypatch.setattr("qednano.data.hub.records", records)
    monkeypatch.setattr("qednano.data.hub.commit_of", lambda source: "c0ffee")
    spec = spec_of(tmp_path, {})
    stage = {"decontaminate": {"benchmarks": [{"name": "imo-proofbench"}, {"name": "proofbench"}]}}
    spec = ProofDatasetSpec.model_validate({**spec.model_dump(by_alias=True), "stages": [stage]})
    manifest = build_dataset(spec, "x", build_at(tmp_path / "run"))
    assert {place[:2] for place in asked} == {
        ("Hwilner/imo-proofbench", "train"),
        ("wenjiema02/ProofBench", "train"),
        ("wenjiema02/ProofBench", "best_of_n"),
    }
    assert manifest.inputs["hf://Hwilner/imo-proofbench@main"] == {"commit": "c0ffee"}
    log = (tmp_path / "run/artifact/reports/decontaminate.jsonl").read_text()
    assert {json.loads(line)["id"] for line in log.splitlines()} == {"p1", "d1", "p2", "d2", "p3", "d3"}
