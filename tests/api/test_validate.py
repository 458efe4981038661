"""Manifests: what is accepted, and that each mistake is explained with field, value and remedy."""

from pathlib import Path

import pytest
import yaml

from qednano.api import KINDS, RLRunSpec
from qednano.api.load import InvalidManifest, load_documents

SFT = {
    "apiVersion": "qednano.dev/v1alpha1",
    "kind": "SFTRun",
    "metadata": {"name": "tiny-sft"},
    "spec": {
        "model": {"init": {}},
        "dataset": {"proofDataset": {"name": "tiny", "split": "sft"}},
        "trainer": {"maxSteps": 10, "learningRate": "2e-3"},
    },
}
EVAL = {
    "apiVersion": "qednano.dev/v1alpha1",
    "kind": "EvalRun",
    "metadata": {"name": "tiny-eval"},
    "spec": {
        "model": {"rlRun": {"name": "tiny-rl"}},
        "benchmark": {"proofDataset": {"name": "tiny", "split": "heldout"}},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "sampling": {"maxTokens": 64},
    },
}
RL = {
    "apiVersion": "qednano.dev/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "tiny-rl"},
    "spec": {
        "model": {"sftRun": {"name": "tiny-sft"}},
        "dataset": {"proofDataset": {"name": "tiny", "split": "rl"}},
        "algorithm": {"maxSteps": 10},
        "grader": {"checker": {"name": "tiny-divisibility"}},
    },
}
REFERENCE = {"model": {"sftRun": {"name": "tiny-sft"}}, "server": {"maxModelLength": 512}}


def changed(document: dict, path: str, value: object) -> dict:
    copy = yaml.safe_load(yaml.safe_dump(document))
    *parents, last = path.split(".")
    node = copy
    for part in parents:
        node = node.setdefault(part, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return copy


def mistakes(tmp_path: Path, *documents: dict) -> list[str]:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    with pytest.raises(InvalidManifest) as caught:
        load_documents([file])
    return [str(mistake).removeprefix(str(tmp_path) + "/") for mistake in caught.value.mistakes]


def test_a_minimal_run_gets_every_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(SFT))
    (document,) = load_documents([file])
    spec = document.run.spec
    assert document.run.metadata.namespace == "default"
    assert float(spec.trainer.learning_rate) == 2e-3
    assert spec.restart.max_restarts == 3
    assert spec.model.init.hidden_size == 128


@pytest.mark.parametrize(
    ("document", "path", "value", "expected"),
    [
        (SFT, "spec.trainer.learningrate", "1", "there is no such field; did you mean learningRate?"),
        (SFT, "spec.trainer.learningRate", 0.1, 'must be a decimal in quotes, such as "0.1"'),
        (SFT, "spec.trainer.learningRate", "-1", "learningRate is -1; it must be above 0"),
        (SFT, "spec.trainer.schedule", "cosin", "is 'cosin'; did you mean cosine?"),
        (SFT, "spec.trainer.maxSteps", 0, "is 0; it must be at least 1"),
        (SFT, "spec.trainer.maxSteps", "ten", "is 'ten'; it must be a whole number"),
        (SFT, "spec.trainer.maxSteps", ..., "exactly one of maxSteps, epochs must be set"),
        (SFT, "spec.trainer.warmupSteps", 11, "warmupSteps is 11; it must not exceed maxSteps (10)"),
        (SFT, "spec.trainer.epochs", 2, "exactly one of maxSteps, epochs must be set, but maxSteps and epochs are set"),
        (SFT, "spec.trainer.sequenceParallel", 2, "nodes times processes (1 x 1) must be a multiple of it"),
        (SFT, "spec.trainer.lora", {"dropout": "1"}, "dropout is 1; it must be at least 0 and below 1"),
        (SFT, "spec.checkpoint", {"keepBest": 1}, "checkpoint.keepBest is 1; it needs spec.validation"),
        (SFT, "spec.validation", {"everySteps": 5}, "exactly one of dataset, holdOut must be set, but none is set"),
        (SFT, "spec.mixture", [{"dataset": {"uri": "/x.jsonl"}, "weight": "0"}], "weight is 0; it must be above 0"),
        (SFT, "spec.trainer.resources.memory", "much", "is 'much', which is not a quantity"),
        (SFT, "spec.model.uri", "/models/x", "exactly one of uri, sftRun, rlRun, init must be set, but uri and init"),
        (SFT, "spec.model", {}, "exactly one of uri, sftRun, rlRun, init must be set, but none is set"),
        (SFT, "spec.model.init.hiddenSize", 130, "hiddenSize is 130; it must be a multiple of heads (4)"),
        (SFT, "spec.suspend", "perhaps", "is 'perhaps'; it must be true or false"),
        (SFT, "metadata.name", "x" * 41, "may have at most this many characters: 40"),
        (SFT, "metadata.name", "Tiny", "is 'Tiny', which is not a name"),
        (SFT, "kind", "SFTrun", "is 'SFTrun'; did you mean SFTRun?"),
        (SFT, "apiVersion", "qednano.dev/v1", "write qednano.dev/v1alpha1"),
        (EVAL, "spec.sampling.maxTokens", 1024, "it must be below server.maxModelLength (1024)"),
        (EVAL, "spec.sampling.temperature", "2.5", "temperature is 2.5; it must be from 0 to 2"),
        (RL, "spec.reference", REFERENCE, "it must be at least rollout.maxModelLength (1024)"),
        (RL, "spec.reference", {"endpoint": {"url": "http://x", "model": "y"}}, "log-probs of given tokens need"),
        (EVAL, "spec.baselines", [{"name": "model", "model": {"uri": "x"}}], "the name model is used twice"),
    ],
)
def test_each_mistake_names_field_value_and_remedy(
    tmp_path: Path, document: dict, path: str, value: object, expected: str
) -> None:
    (found,) = mistakes(tmp_path, changed(document, path, value))
    assert expected in found
    if path.startswith("spec."):
        assert ": spec" in found


def test_the_line_of_a_mistake_is_the_line_of_its_field(tmp_path: Path) -> None:
    text = yaml.safe_dump_all([EVAL, changed(SFT, "spec.trainer.typo", 1)], sort_keys=False)
    line = text.splitlines().index("    typo: 1") + 1
    (found,) = mistakes(tmp_path, EVAL, changed(SFT, "spec.trainer.typo", 1))
    assert found.startswith(f"run.yaml:{line}: spec.trainer.typo: ")


def test_all_mistakes_of_all_documents_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, changed(SFT, "spec.trainer.maxSteps", 0), changed(EVAL, "spec.grader", ...))
    assert len(found) == 2


def test_one_name_twice_is_a_mistake(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, SFT, SFT)
    assert "SFTRun tiny-sft is already defined at" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [1", "is not YAML"), ("- 1", "a manifest is a mapping"), ("a: !!python/none x", "is not YAML")],
)
def test_what_is_no_manifest_is_told_so(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InvalidManifest, match=expected):
        load_documents([file])


def test_a_missing_file_and_an_empty_folder_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="there is no such file or folder"):
        load_documents([tmp_path / "none.yaml"])
    with pytest.raises(InvalidManifest, match="has no .yaml"):
        load_documents([tmp_path])


def test_every_field_of_every_kind_is_described_and_bounded() -> None:
    def walk(schema: dict, path: str) -> None:
        if schema.get("type") == "string" and "enum" not in schema:
            assert "maxLength" in schema, path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
            walk(schema["items"], path + "[]")
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path
            walk(schema["additionalProperties"], path + "{}")
        for name, child in schema.get("properties", {}).items():
            assert child.get("description"), f"{path}.{name} has no description"
            walk(child, f"{path}.{name}")

    from qednano.api.crd import structural

    for kind in KINDS.values():
        walk(structural(kind.spec_type().model_json_schema(by_alias=True)), kind.__name__)


def test_decimals_survive_a_round_trip_as_strings() -> None:
    spec = RLRunSpec.model_validate(
        {
            "model": {"uri": "x"},
            "dataset": {"uri": "y"},
            "algorithm": {"maxSteps": 1},
            "grader": {"checker": {"name": "tiny-divisibility"}},
            "trainer": {"learningRate": "1e-6"},
        }
    )
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert dumped["trainer"]["learningRate"] == "0.000001"
    assert RLRunSpec.model_validate(dumped) == spec


def test_a_file_without_a_manifest_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# nothing yet\n---\n")
    with pytest.raises(InvalidManifest, match="run.yaml:1: the file has no manifest"):
        load_documents([tmp_path])
