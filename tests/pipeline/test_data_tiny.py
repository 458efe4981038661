"""examples/data-tiny as it stands: a dataset made with a real vLLM as filter, teacher and measured model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qednano.data.schema import read_rows

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.vllm


def test_each_stage_accounts_for_every_row_and_the_server_goes_with_the_run(tmp_path):
    command = [
        sys.executable,
        "-m",
        "qednano.cli",
        "run",
        str(ROOT / "examples" / "data-tiny"),
        "--root",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [run_dir] = (tmp_path / "default" / "proofdataset").glob("proofs-*")
    told = json.loads((run_dir / "artifact" / "reports" / "stages.json").read_text())
    rows = 40
    for name in ("llmFilter", "generate", "grade", "select", "difficulty", "curriculum"):
        stage = told[name]
        dropped = sum(count for cause, count in stage["counts"].items() if cause.startswith("dropped "))
        assert (stage["rows_in"], stage["rows_out"]) == (rows, rows - dropped), name
        rows = stage["rows_out"]
    final = list(read_rows(run_dir / "artifact" / "train.parquet"))
    assert 0 < len(final) == rows == len({row.id for row in final})
    assert [row.pass_rate for row in final] == sorted((row.pass_rate for row in final), reverse=True)
    assert told["generate"]["counts"]["candidates"] == 4 * told["generate"]["rows_in"]
    keys = [json.loads(line)["key"] for path in (run_dir / "answers" / "generate").glob("part-*.jsonl")
            for line in path.read_text().splitlines()]  # fmt: skip
    assert len(keys) == len(set(keys)) == 4 * told["generate"]["rows_in"]
    servers = subprocess.run(["pgrep", "-f", str(run_dir)], capture_output=True, text=True).stdout
    assert not servers.strip(), "the servers end with the run"
