from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qednano import artifacts
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data import shards
from qednano.data.build import build_dataset
from qednano.data.schema import read_rows
from qednano.data.shards import Build
from qednano.errors import DataError, Fenced, Stopped
from qednano.progress import Reporter
from qednano.tiny.checker import check


def spec_of(source, splits, **more):
    return ProofDatasetSpec.model_validate({"sources": [{"name": "mine", **source}], "splits": splits, **more})


def generated(train=120, held=30, **more):
    source = {"generator": {"name": "tiny-divisibility", "difficulty": {"min": 1, "max": 2}}}
    splits = [{"name": "train", "problems": train}, {"name": "heldout", "problems": held, "heldOut": True}]
    return spec_of(source, splits, **more)


def build_at(path, check_stop=lambda: None, check_fence=lambda: None):
    return Build(path, Reporter(), check_stop, check_fence)


def rows_of(path, split):
    return list(read_rows(path / "artifact" / f"{split}.parquet"))


def write_problems(path, count):
    rows = [{"problem": f"Prove that {n} = {n}.", "solution": f"{n} is {n}."} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_generated_dataset_has_its_splits_teacher_proofs_and_manifest(tmp_path):
    manifest = build_dataset(generated(), "tiny", build_at(tmp_path))
    assert artifacts.verify(tmp_path / "artifact").digest == manifest.digest
    assert manifest.metrics == {"problems/train": 120, "problems/heldout": 30}
    train, held = rows_of(tmp_path, "train"), rows_of(tmp_path, "heldout")
    assert (len(train), len(held)) == (120, 30)
    assert not {row.id for row in train} & {row.id for row in held}
    assert {json.loads(row.meta)["fold"] for row in held} == {"heldout"}
    assert {len(row.solutions) for row in train} == {4}
    assert all(check(row.problem, row.reference).score == 7 for row in train)
    scores = [check(row.problem, proof).score for row in train for proof in row.solutions]
    assert 0.3 < sum(score == 7 for score in scores) / len(scores) < 0.5  # 60 % have a flaw
    assert not (tmp_path / "work").exists()


def test_identical_inputs_and_seed_give_the_identical_digest_and_another_seed_another(tmp_path):
    digests = [
        build_dataset(generated(seed=seed), name, build_at(tmp_path / name)).digest
        for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    ]
    assert digests[0] == digests[1] != digests[2]


def test_two_splits_of_the_training_fold_share_no_problem(tmp_path):
    splits = [{"name": name, "problems": 100} for name in ("sft", "rl")]
    build_dataset(spec_of({"generator": {"name": "tiny-divisibility"}}, splits), "tiny", build_at(tmp_path))
    assert not {row.id for row in rows_of(tmp_path, "sft")} & {row.id for row in rows_of(tmp_path, "rl")}


def test_files_become_splits_that_share_no_problem(tmp_path):
    uri = write_problems(tmp_path / "rows.jsonl", 50)
    splits = [{"name": "train", "problems": 40}, {"name": "test", "problems": 10}]
    manifest = build_dataset(spec_of({"files": {"uris": [uri]}}, splits), "mine", build_at(tmp_path / "run"))
    train, test = rows_of(tmp_path / "run", "train"), rows_of(tmp_path / "run", "test")
    assert len({row.problem for row in train} | {row.problem for row in test}) == 50
    assert all(row.solutions == [f"{row.problem.split()[2]} is {row.problem.split()[2]}."] for row in train)
    assert manifest.inputs[uri]["sha256"] == artifacts.file_sha256(Path(uri))


class StopAfter:
    """Raises Stopped at the n-th look."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Stopped("asked to stop")


@pytest.mark.parametrize("source", ["generator", "files"])
@pytest.mark.parametrize("looks", [0, 1, 3, 5])
def test_a_build_stopped_anywhere_goes_on_and_ends_with_the_same_digest(tmp_path, monkeypatch, source, looks):
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    monkeypatch.setattr(shards, "STOP_EVERY", 25)
    spec = generated()
    if source == "files":
        uri = write_problems(tmp_path / "rows.jsonl", 130)
        spec = spec_of({"files": {"uris": [uri]}}, [{"name": "a", "problems": 90}, {"name": "b", "problems": 30}])
    whole = build_dataset(spec, "x", build_at(tmp_path / "whole"))
    with pytest.raises(Stopped):
        build_dataset(spec, "x", build_at(tmp_path / "halved", check_stop=StopAfter(looks)))
    assert not (tmp_path / "halved" / "artifact").exists()
    assert build_dataset(spec, "x", build_at(tmp_path / "halved")).digest == whole.digest


def test_complete_shards_are_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    monkeypatch.setattr(shards, "STOP_EVERY", 25)
    with pytest.raises(Stopped):
        build_dataset(generated(), "x", build_at(tmp_path, check_stop=StopAfter(3)))
    before = {path: path.stat().st_ino for path in (tmp_path / "work").rglob("part-*")}
    assert before
    written = []
    publish = shards.publish
    monkeypatch.setattr(shards, "publish", lambda path, rows: (written.append(path), publish(path, rows)))
    build_dataset(generated(), "x", build_at(tmp_path))
    assert not set(written) & set(before)


def test_shards_made_from_a_changed_file_are_thrown_away(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 8)
    uri = write_problems(tmp_path / "rows.jsonl", 300)
    spec = spec_of({"files": {"uris": [uri]}}, [{"name": "a", "problems": 250}])
    with pytest.raises(Stopped):
        build_dataset(spec, "x", build_at(tmp_path / "run", check_stop=StopAfter(1)))
    Path(uri).write_text(Path(uri).read_text().replace("Prove that", "Show that"))
    build_dataset(spec, "x", build_at(tmp_path / "run"))
    assert all(row.problem.startswith("Show that") for row in rows_of(tmp_path / "run", "a"))


def test_a_finished_dataset_is_not_made_again(tmp_path):
    first = build_dataset(generated(), "x", build_at(tmp_path))
    stop = StopAfter(0)
    assert build_dataset(generated(), "x", build_at(tmp_path, check_stop=stop)) == first


def test_a_fenced_build_publishes_nothing(tmp_path):
    def fenced():
        raise Fenced("attempt 2 owns the folder")

    with pytest.raises(Fenced):
        build_dataset(generated(), "x", build_at(tmp_path, check_fence=fenced))
    assert not (tmp_path / "artifact").exists()


def test_progress_ends_at_the_number_of_problems(tmp_path):
    build = build_at(tmp_path)
    build_dataset(generated(), "x", build)
    report = build.reporter.report()
    assert (report.step, report.total, report.unit) == (150, 150, "problem")


def test_too_few_problems_in_a_file_are_counted(tmp_path):
    uri = write_problems(tmp_path / "rows.jsonl", 5)
    spec = spec_of({"files": {"uris": [uri]}}, [{"name": "a", "problems": 6}])
    with pytest.raises(DataError, match="ask for 6 problems, the source has 5 different ones"):
        build_dataset(spec, "x", build_at(tmp_path / "run"))


# The job, as a process.


def start_job(folder, spec):
    config = {
        "apiVersion": "qednano.dev/v1alpha1",
        "kind": "ProofDataset",
        "name": "tiny",
        "spec": spec.model_dump(mode="json", by_alias=True),
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    env = os.environ | {
        "QED_CONFIG": str(folder / "config.json"),
        "QED_RUN_DIR": str(folder / "run"),
        "QED_ROLE": "dataset",
        "QED_SCRATCH": str(folder / "scratch"),
        "QED_TERMINATION_PATH": str(folder / "last-words"),
    }
    return subprocess.Popen([sys.executable, "-m", "qednano_jobs.dataset"], env=env, stderr=subprocess.PIPE, text=True)


def last_words(folder):
    return json.loads((folder / "last-words").read_text())


def wait_for_shard(folder, process, pattern="work/*/part-*.parquet"):
    deadline = time.monotonic() + 120
    while not list((folder / "run").glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)


def test_a_job_killed_between_stages_ends_as_if_it_had_not_been(tmp_path):
    text = "Let $a+b={}$ and $ab={}$ for positive reals $a,b$. Prove that $a^{}+b^2 > {}$."
    rows = [{"id": f"r{n}", "problem": text.format(n % 997, n % 991, n % 7 + 2, n % 83)} for n in range(6000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + rows[:500]))
    source = {"files": {"uris": [str(tmp_path / "rows.jsonl")]}}
    stages = [{"normalise": {}}, {"deduplicate": {}}, {"filter": {"minCharacters": 10}}]
    spec = spec_of(source, [{"name": "test", "problems": 100}, {"name": "train"}], stages=stages)
    for stage in ("1-normalise", "2-deduplicate"):
        process = start_job(tmp_path, spec)
        wait_for_shard(tmp_path, process, f"work/.stages/{stage}/part-*.parquet")
        process.kill()
        process.communicate()
    last = start_job(tmp_path, spec)
    last.communicate()
    assert last.returncode == 0
    whole = build_dataset(spec, "tiny", build_at(tmp_path / "whole"))
    assert last_words(tmp_path)["artifact"]["digest"] == whole.digest
    assert whole.metrics["rows/deduplicate/in"] == 6500 and whole.metrics["rows/deduplicate/out"] <= 6000


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
def test_a_job_killed_in_mid_run_resumes_to_the_same_digest(tmp_path, sent, code):
    spec = generated(train=9000, held=1000)
    process = start_job(tmp_path, spec)
    wait_for_shard(tmp_path, process)
    process.send_signal(sent)
    process.communicate()
    assert process.returncode == code
    assert not (tmp_path / "run" / "artifact").exists()
    second = start_job(tmp_path, spec)
    second.communicate()
    assert second.returncode == 0
    said = last_words(tmp_path)
    assert (said["outcome"], said["metrics"]["problems"]) == ("Succeeded", "10000")
    whole = build_dataset(spec, "tiny", build_at(tmp_path / "whole"))
    assert said["artifact"] == {"uri": str(tmp_path / "run" / "artifact"), "digest": whole.digest}


def test_a_job_with_a_bad_row_ends_as_a_data_error_that_names_the_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"problem": "P"}\n{"question": "Q"}\n')
    spec = spec_of({"files": {"uris": [str(tmp_path / "rows.jsonl")]}}, [{"name": "a", "problems": 1}])
    process = start_job(tmp_path, spec)
    process.communicate()
    assert process.returncode == 65
    said = last_words(tmp_path)
    assert (said["outcome"], said["reason"]) == ("Failed", "DataError")
    assert said["message"].startswith("rows.jsonl line 2 has no 'problem'")
