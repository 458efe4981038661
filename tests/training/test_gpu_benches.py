"""The GPU benches start anywhere: without a GPU they say what they need, and a tiny model runs through them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(bench: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", bench, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_it_needs():
    done = run("bench.gpu_sft")
    assert done.returncode == 78 and "there is no CUDA GPU here; it needs one CUDA GPU with about" in done.stderr


@pytest.mark.parametrize("bench", ["bench.gpu_sft", "bench.gpu_rl"])
def test_a_tiny_model_runs_through_it_and_it_says_what_limits_it(bench):
    done = run(bench, "--tiny", "--tokens", "256", "--steps", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    *_, said, last = done.stdout.strip().splitlines()
    figures = json.loads(last)["figures"]
    assert figures["tokens_per_second"] > 0 and figures["model_tflops_per_second"] > 0
    if not torch.cuda.is_available():
        assert said.startswith("MFU: n/a") and said.endswith("limits it.")
        assert figures["time_matrix"] > 0 and figures["time_optimizer"] > 0
    shares = [value for name, value in figures.items() if name.startswith("time_")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
