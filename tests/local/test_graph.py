"""Order of runs by their references."""

from __future__ import annotations

from pathlib import Path

import pytest

from qednano.api.load import load_documents
from qednano.errors import ConfigError
from qednano.local.graph import in_order
from tests.local.runs import DATASET, RL, SFT


def documents(tmp_path: Path, *texts: str) -> list:
    path = tmp_path / "runs.yaml"
    path.write_text("---".join(texts))
    return load_documents([path])


def names(found: list) -> list[str]:
    return [document.run.metadata.name for document in found]


def test_each_run_comes_after_those_it_refers_to(tmp_path):
    assert names(in_order(documents(tmp_path, RL, SFT, DATASET))) == ["tiny", "tiny-sft", "tiny-rl"]


def test_independent_runs_keep_their_order(tmp_path):
    other = DATASET.replace("name: tiny}", "name: other}", 1)
    assert names(in_order(documents(tmp_path, other, DATASET))) == ["other", "tiny"]


def test_a_missing_reference_names_field_file_and_run(tmp_path):
    with pytest.raises(ConfigError, match=r"runs.yaml:2: spec.dataset of SFTRun/tiny-sft refers to ProofDataset/tiny"):
        in_order(documents(tmp_path, SFT))


def test_a_reference_to_a_finished_run_needs_no_file(tmp_path):
    assert names(in_order(documents(tmp_path, SFT), [("default", "ProofDataset", "tiny")])) == ["tiny-sft"]


def test_a_reference_into_another_namespace_is_missing(tmp_path):
    elsewhere = DATASET.replace("{name: tiny}", "{name: tiny, namespace: other}", 1)
    with pytest.raises(ConfigError, match="ProofDataset/tiny"):
        in_order(documents(tmp_path, elsewhere, SFT))


def test_a_circle_names_every_run_and_field_of_it(tmp_path):
    first = RL.replace("sftRun: {name: tiny-sft}", "rlRun: {name: second}")
    second = RL.replace("name: tiny-rl", "name: second").replace("sftRun: {name: tiny-sft}", "rlRun: {name: tiny-rl}")
    message = "spec.model of RLRun/tiny-rl, spec.model of RLRun/second refer to one another in a circle"
    with pytest.raises(ConfigError, match=message):
        in_order(documents(tmp_path, DATASET, first, second))


def test_a_split_that_a_dataset_does_not_make_is_told_before_anything_runs(tmp_path):
    (tmp_path / "runs.yaml").write_text(DATASET + "---" + SFT.replace("{name: tiny}}", "{name: tiny, split: test}}"))
    with pytest.raises(ConfigError, match=r"spec.dataset.proofDataset.split is test, but ProofDataset tiny has only"):
        in_order(load_documents([tmp_path / "runs.yaml"]))
