"""Each objective against an implementation of others: TRL's GRPOTrainer, which has them all under other names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peer import CACHE, has_trl

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not has_trl() and "CI" not in os.environ,
    reason=f"TRL isn't in {CACHE}; `python -m bench.rl_losses` puts it there",
)
def test_loss_and_gradient_are_those_of_trl():
    # Without what other tests of this process may have said about ranks, from which TRL would look for its peers.
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "bench.rl_losses"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    figures = json.loads(done.stdout.strip().splitlines()[-1])["figures"]
    algorithms = {name.split(",")[0] for name in figures}
    assert algorithms == {"REINFORCE", "PPO", "CISPO", "GSPO"} and max(figures.values()) <= 1e-5
