"""The real pipeline, made small: Ctrl-C in the middle of every stage, and the next start goes on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ProofDataset/tiny", "SFTRun/tiny-sft", "RLRun/tiny-rl", "EvalRun/tiny-eval")
SMALL = {
    "ProofDataset": {
        "splits": [
            {"name": "train", "problems": 3000},
            {"name": "rl", "problems": 200},
            {"name": "test", "problems": 40, "heldOut": True},
        ]
    },
    "SFTRun": {"trainer": {"maxSteps": 40}, "checkpoint": {"everySteps": 5}},
    "RLRun": {
        "algorithm": {"groupSize": 4, "problemsPerStep": 4, "maxSteps": 20, "dropZeroVariance": False},
        "checkpoint": {"everySteps": 1},
    },
    "EvalRun": {"samplesPerProblem": 4},
}


def merged(base: dict, change: dict) -> dict:
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in change.items()
    }


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/tiny with the same fields and smaller numbers."""
    folder = tmp_path_factory.mktemp("small")
    for file in sorted((ROOT / "examples" / "tiny").glob("*.yaml")):
        document = yaml.safe_load(file.read_text())
        document["spec"] = merged(document["spec"], SMALL[document["kind"]])
        (folder / file.name).write_text(yaml.safe_dump(document))
    return folder


def start(manifests: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qednano.cli", "run", str(manifests), "--root", str(root)]
    log = (root.parent / "output.txt").open("a")
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True)


def progress(root: Path, stage: str) -> tuple[str, int]:
    """Phase and step of a run, from what `qednano status` says."""
    command = [sys.executable, "-m", "qednano.cli", "status", "--root", str(root), "--output", "json"]
    for run in json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout):
        if run["run"] == stage:
            return run.get("phase", ""), (run.get("progress") or {}).get("step", 0)
    return "", 0


def wait_until_in_the_middle(process: subprocess.Popen[str], root: Path, stage: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, (
            f"ended before {stage} was under way:\n{(root.parent / 'output.txt').read_text()}"
        )
        phase, step = progress(root, stage)
        assert phase != "Succeeded", f"{stage} was over before it could be interrupted"
        if phase == "Running" and (step > 0 or stage == STAGES[0]):
            return
        time.sleep(0.1)
    pytest.fail(f"{stage} did not get under way:\n{(root.parent / 'output.txt').read_text()}")


def processes_under(root: Path) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if f"QED_RUN_DIR={root}".encode() in environment:
                found.append(folder.name)
    return found


@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_ctrl_c_in_every_stage_then_resume(manifests: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    for stage in STAGES:
        process = start(manifests, root)
        wait_until_in_the_middle(process, root, stage)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(90) == 130
        assert processes_under(root) == []
    before = progress(root, STAGES[2])
    process = start(manifests, root)
    assert process.wait(600) == 0, (tmp_path / "output.txt").read_text()
    output = (tmp_path / "output.txt").read_text()
    assert before[0] == "Succeeded"
    last = json.loads(output.strip().splitlines()[-1])
    assert set(last["scores"]) == {"untrained", "sft", "rl"}
    assert Path(last["report"]).is_file()
    for stage in STAGES:
        assert progress(root, stage)[0] == "Succeeded"
