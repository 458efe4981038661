"""The examples are right: every field, every reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from qednano.api.load import load_documents
from qednano.local.graph import in_order, key_of, label

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("folder", "runs"),
    [
        ("graders", ["EvalRun/judges", "EvalRun/tiny-grader"]),
        ("tiny", ["ProofDataset/tiny", "SFTRun/tiny-sft", "RLRun/tiny-rl", "EvalRun/tiny-eval"]),
        ("data-tiny", ["ProofDataset/known", "SFTRun/teacher", "ProofDataset/proofs"]),
        ("paper-data", ["ProofDataset/olympiad-problems", "ProofDataset/proofs-sft", "ProofDataset/proofs-rl"]),
        (
            "paper",
            [
                "ProofDataset/fineproofs-sft",
                "ProofDataset/fineproofs-rl",
                "SFTRun/qed-nano-sft",
                "RLRun/qed-nano",
                "RLRun/qed-nano-rc",
                "EvalRun/qed-nano-eval",
                "EvalRun/qed-nano-verify-refine",
            ],
        ),
    ],
)
def test_each_example_is_valid_and_complete(folder, runs):
    assert [label(key_of(document.run)) for document in in_order(load_documents([EXAMPLES / folder]))] == runs
