"""A tiny model and a tiny dataset, made once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from qednano.data.schema import ProblemRow, to_table
from qednano.tiny import model, problems, teacher

SIZES = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "mlp_size": 64, "max_length": 256}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen3 of two layers, in fp32."""
    folder = tmp_path_factory.mktemp("model")
    model.init(folder, **SIZES, seed=3)
    return folder


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of 200 problems with two proofs each."""
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    rng = random.Random(0)
    rows = [
        ProblemRow(id=p.id, problem=p.text, solutions=[teacher.write(p, rng), teacher.write(p, rng)])
        for p in problems.generate(seed=5, count=200)
    ]
    pyarrow.parquet.write_table(to_table(rows), path)
    return path


@pytest.fixture
def start_job(tmp_path: Path) -> Any:
    """Start a job module as a real process in a run folder; ends what is left at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(module: str, run_dir: Path, config: dict[str, Any], launcher: list[str] | None = None):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        env = os.environ | {
            "QED_CONFIG": str(path),
            "QED_RUN_DIR": str(run_dir),
            "QED_ROLE": "trainer",
            "QED_TERMINATION_PATH": str(tmp_path / "last-words.json"),
            "QED_SCRATCH": str(tmp_path / "scratch"),
            "OMP_NUM_THREADS": "1",
        }
        log = (tmp_path / "job.log").open("a")
        process = subprocess.Popen(
            [sys.executable, *(launcher or []), "-m", module], env=env, stdout=log, stderr=log, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def last_words(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """What the job said at its end."""
    return lambda: json.loads((tmp_path / "last-words.json").read_text())
