"""What `qednano run` says of an evaluation of graders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/graders/tiny.yaml"


def test_a_run_of_graders_ends_with_their_errors_and_is_reused(tmp_path):
    for again in (False, True):
        command = [sys.executable, "-m", "qednano.cli", "run", str(EXAMPLE), "--root", str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        heading, row = (line.split() for line in ran.stdout.splitlines() if line.startswith(("GRADER", "checker")))
        assert heading[:3] == ["GRADER", "GRADED", "ERROR"] and row[:2] == ["checker", "18"]
        assert json.loads(ran.stdout.strip().splitlines()[-1])["scores"] == {}
        assert ("reused" in ran.stdout) is again
