"""The hours of docs/reproduce.md follow from the manifests, and from arithmetic that can be checked by hand."""

from __future__ import annotations

import pytest

from tools import paper_estimates
from tools.paper_estimates import PAGE, decoding_rate, page, rl_step, rows, training_flops


def test_the_table_is_up_to_date() -> None:
    assert page(PAGE.read_text()) == PAGE.read_text(), "run python -m tools.paper_estimates"


def test_the_arithmetic() -> None:
    assert training_flops(0) == pytest.approx(24.1e9, rel=0.01)  # 6 × 4.02 billion
    assert training_flops(49_152) == pytest.approx(24.1e9 + 43.5e9, rel=0.01)
    # One request and no context: 8 GB a token at 2 TB/s.
    assert decoding_rate(0, 1) == pytest.approx(250, rel=0.01)
    # 20 contexts of 15,000 tokens, 147 kB each token: 44 GB more.
    assert decoding_rate(30_000, 20) == pytest.approx(20 * 2.01e12 / (8.04e9 + 44.2e9), rel=0.01)


def test_the_estimates_use_the_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = {row.what: row.gpus for row in rows()}
    assert gpus["RL"] == 36 and gpus["RL with the reasoning cache"] == 36 and gpus["SFT"] == 8
    spec = paper_estimates._spec("3-rl.yaml", "qed-nano")
    whole = rl_step(spec, 30_000)["sampling"]
    spec["rollout"]["replicas"] *= 2
    assert rl_step(spec, 30_000)["sampling"] == pytest.approx(whole / 2)
