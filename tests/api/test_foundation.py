"""Artifacts, fencing, progress and the wrapper of jobs: each by what a reader of files or an HTTP client sees."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from qednano import artifacts
from qednano.errors import ArtifactError, Fenced
from qednano.progress import Reporter, parse_report


def artifact(folder: Path, text: str = "x") -> artifacts.Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text(text)
    return artifacts.write_manifest(folder, kind="ProofDataset", name="tiny")


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    assert artifact(tmp_path / "one").digest == artifact(tmp_path / "two").digest
    assert artifact(tmp_path / "three", "y").digest != artifact(tmp_path / "one").digest


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    artifact(tmp_path / "a")
    (tmp_path / "a" / "a.txt").write_text("z")
    with pytest.raises(ArtifactError, match=r"a\.txt differs"):
        artifacts.verify(tmp_path / "a")


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        artifacts.read_manifest(tmp_path)


def test_publishing_replaces_whole_folders_and_leaves_no_rest(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with artifacts.staging(tmp_path / "final") as folder:
            artifact(folder, text)
            artifacts.publish(folder, tmp_path / "final")
    assert (tmp_path / "final" / "a.txt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_failed_publish_leaves_the_old_one(tmp_path: Path) -> None:
    artifact(tmp_path / "final", "old")
    with pytest.raises(RuntimeError), artifacts.staging(tmp_path / "final") as folder:
        artifact(folder, "new")
        raise RuntimeError
    assert (tmp_path / "final" / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_newer_attempt_fences_the_older(tmp_path: Path) -> None:
    first = artifacts.claim_attempt(tmp_path)
    artifacts.check_fence(tmp_path, first)
    second = artifacts.claim_attempt(tmp_path)
    assert second == first + 1
    with pytest.raises(Fenced, match="attempt 2 owns"):
        artifacts.check_fence(tmp_path, first)


def test_rate_and_eta_come_from_recent_steps() -> None:
    now = [0.0]
    reporter = Reporter(total=100, clock=lambda: now[0])
    for step in range(11):
        now[0] = step * 2.0
        reporter.update(step=step)
    report = reporter.report()
    assert report.rate == pytest.approx(0.5)
    assert report.eta_seconds == pytest.approx(180)


def test_progress_and_metrics_are_served() -> None:
    reporter = Reporter(total=5)
    reporter.update(step=2, stage="train", metrics={"loss": 1.5})
    port = reporter.serve(0, "127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress") as answer:
            report = parse_report(answer.read())
        assert (report.stage, report.step, report.total, report.metrics) == ("train", 2, 5, {"loss": 1.5})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"python_info" in answer.read()
    finally:
        reporter.close()


JOB = """
import sys, time
from qednano.errors import DataError
from qednano.job import Outcome, job

@job
def main(context):
    what = context.config.spec["what"]
    if what == "data":
        raise DataError("rows.jsonl line 3 has no 'problem'")
    if what == "bug":
        raise KeyError("x")
    if what == "wait":
        print("waiting", flush=True)
        context.stopping.wait(30)
        context.check_stop()
    return Outcome("all done", {"loss": 0.25})

sys.exit(main())
"""


def job(tmp_path: Path, what: str, **inputs: str) -> tuple[subprocess.Popen, Path]:
    (tmp_path / "job.py").write_text(JOB)
    config = {"apiVersion": "qednano.dev/v1alpha1", "kind": "SFTRun", "name": "x", "spec": {"what": what}}
    config["inputs"] = {name: {"uri": uri} for name, uri in inputs.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = tmp_path / "termination.json"
    env = os.environ | {
        "QED_CONFIG": str(tmp_path / "config.json"),
        "QED_RUN_DIR": str(tmp_path / "run"),
        "QED_ROLE": "trainer",
        "QED_TERMINATION_PATH": str(words),
    }
    command = [sys.executable, str(tmp_path / "job.py")]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True), words


@pytest.mark.parametrize(
    ("what", "code", "outcome", "reason", "message"),
    [
        ("done", 0, "Succeeded", "Completed", "all done"),
        ("data", 65, "Failed", "DataError", "rows.jsonl line 3 has no 'problem'"),
        ("bug", 70, "Failed", "KeyError", "KeyError: 'x'"),
    ],
)
def test_a_job_ends_with_its_code_and_last_words(
    tmp_path: Path, what: str, code: int, outcome: str, reason: str, message: str
) -> None:
    process, words = job(tmp_path, what)
    assert process.wait(30) == code
    said = json.loads(words.read_text())
    assert (said["outcome"], said["reason"], said["message"]) == (outcome, reason, message)


def test_a_later_attempt_reads_what_the_first_read_or_says_that_it_can_not(tmp_path: Path) -> None:
    model, rows, plain = tmp_path / "sft" / "model", tmp_path / "rows.jsonl", tmp_path / "plain"
    made = artifact(model.parent)
    rows.write_text("{}")
    plain.mkdir()
    inputs = {"model": f"file://{model}", "dataset": str(rows), "served/teacher": str(plain), "hub": "hf://org/model"}

    def attempt() -> tuple[int, dict[str, Any]]:
        process, words = job(tmp_path, "done", **inputs)
        code = process.wait(30)
        return code, json.loads(words.read_text())

    code, said = attempt()
    sha = hashlib.sha256(b"{}").hexdigest()
    assert code == 0 and said["inputs"] == {"model": made.digest, "dataset": f"sha256:{sha}"}
    assert attempt() == (code, said)
    rows.write_text("{} ")
    code, said = attempt()
    assert (code, said["reason"]) == (66, "InputChanged")
    assert said["message"].startswith(f"the input dataset, {rows}, was sha256:{sha[:12]} when the run first read it")
    rows.write_text("{}")
    artifact(model.parent, "other weights")
    assert attempt()[1]["message"].startswith("the input model, ")


def test_sigterm_never_ends_a_job_with_0(tmp_path: Path) -> None:
    process, words = job(tmp_path, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert json.loads(words.read_text())["outcome"] == "Stopped"


def test_a_job_without_its_environment_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, str(tmp_path / "job.py")], env=env, capture_output=True, text=True)
    assert done.returncode == 64
    assert "QED_CONFIG, QED_RUN_DIR, QED_ROLE not set" in done.stderr
