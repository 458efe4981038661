"""The same words steer runs of a root and of a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import qednano
from tests.local.conftest import Workshop, wait_for, workshop  # noqa: F401
from tests.local.runs import DATASET

SLOW = {"dataset": {"steps": 400, "pause": 0.02}}


@pytest.mark.parametrize("goal", ["tiny", "data", "sft", "rl", "eval"])
def test_what_init_writes_is_valid(goal: str, tmp_path: Path) -> None:
    file = tmp_path / "runs.yaml"
    made = qednano("init", file, "--goal", goal, "--yes")
    assert made.returncode == 0, made.stderr
    checked = qednano("validate", file)
    assert checked.returncode == 0, checked.stderr
    again = qednano("init", file, "--goal", goal, "--yes")
    assert again.returncode == 64 and "is there already" in again.stderr


def test_init_asks_and_refuses_what_is_no_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qednano.cli", "init", str(tmp_path / "a.yaml")]
    done = subprocess.run(command, input="tiny\nNot A Name\n", capture_output=True, text=True)
    assert done.returncode == 64 and "'Not A Name' is no name" in done.stderr
    assert not (tmp_path / "a.yaml").exists()
    done = subprocess.run(command, input="tiny\nmine\n20\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "name: mine-sft" in (tmp_path / "a.yaml").read_text()


def test_a_local_run_is_suspended_and_resumed(workshop: Workshop) -> None:  # noqa: F811
    runner = workshop.start(workshop.write(DATASET), script=SLOW)
    wait_for(lambda: workshop.starts("proofdataset", "tiny", "dataset"), "the job to start")
    said = qednano("suspend", "tiny", "--root", workshop.root)
    assert said.returncode == 0 and "save and stop" in said.stdout, said.stderr
    runner.communicate(timeout=60)
    shown = json.loads(qednano("status", "tiny", "--root", workshop.root, "-o", "json").stdout)
    assert shown[0]["phase"] == "Suspended"
    nothing = qednano("suspend", "pds/tiny", "--root", workshop.root)
    assert nothing.returncode == 64 and "nothing runs under" in nothing.stderr


def test_wait_ends_with_the_run(workshop: Workshop) -> None:  # noqa: F811
    assert workshop.run(workshop.write(DATASET))[0] == 0
    done = qednano("wait", "tiny", "--root", workshop.root, "--timeout", "5")
    assert (done.returncode, done.stdout) == (0, "ProofDataset/tiny: Succeeded\n")
    other = qednano("wait", "tiny", "--for", "Failed", "--root", workshop.root)
    assert other.returncode == 64 and "ended as Succeeded, not as Failed" in other.stderr
    unknown = qednano("wait", "tiny", "--for", "Done", "--root", workshop.root)
    assert "it must be one of Pending" in unknown.stderr


def test_without_a_cluster_the_remedy_is_said(tmp_path: Path) -> None:
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "qednano.cli", "status", "--cluster"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 78
    assert done.stderr.startswith("no cluster is configured: set KUBECONFIG") and done.stderr.count("\n") == 1
