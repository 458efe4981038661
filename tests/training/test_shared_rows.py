"""RL over ranks that share rows and share out the step: the same as on one rank, whoever has nothing to do."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from qednano.tiny import model
from tests.training.shared_rows import main

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "-m"]


def read(path: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["told"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def two_sides(tmp_path_factory):
    """By one rank, and by four in two pairs with ZeRO-3; the model has a key-value head for each rank of a pair."""
    folder = tmp_path_factory.mktemp("shared")
    model.init(folder / "model", hidden_size=32, layers=2, heads=4, kv_heads=2, mlp_size=64, max_length=256, seed=4)
    threads = torch.get_num_threads()
    main(str(folder / "model"), str(folder / "one"), "0:fp32:1")
    torch.set_num_threads(threads)
    subprocess.run(
        [*LAUNCHER, "tests.training.shared_rows", str(folder / "model"), str(folder / "four"), "3:fp32:2"],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"},
        timeout=300,
    )
    return read(folder / "one"), read(folder / "four")


def test_losses_gradients_and_sums_of_an_rl_step_are_those_of_one_rank(two_sides):
    (alone, _), (shared, _) = two_sides
    for step, (expected, found) in enumerate(zip(alone, shared, strict=True)):
        assert found.keys() == expected.keys() and expected["count"] > 0
        for name in expected.keys() - {"norm"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), (step, name)
        if step != 2:  # steps of 14 samples, and the one of a single sample, which leaves two of four ranks idle
            assert found["norm"] == pytest.approx(expected["norm"], rel=1e-5)


def test_a_gradient_that_is_bad_on_one_rank_is_refused_by_all(two_sides):
    for told, _ in two_sides:
        assert [bool(step["applied"]) for step in told] == [True, True, False, True]
        assert math.isnan(told[2]["norm"]) and math.isfinite(told[3]["norm"])


def test_the_weights_are_those_of_one_rank(two_sides):
    (_, expected), (_, found) = two_sides
    assert found.keys() == expected.keys()
    for name, weight in found.items():  # Adam's first steps are +-rate, whatever the gradient: hence the tolerance
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-4, msg=name)
