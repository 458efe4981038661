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


def test_a_tiny_model_runs_through_it():
    done = run("bench.gpu_rl", "--tiny", "--tokens", "256", "--steps", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])["figures"]
    assert figures["tokens_per_second"] > 0 and figures["model_tflops_per_second"] > 0
