"""Generated CRDs: current, structural, with the models' rules. What an API server says is in tests/operator."""

import pytest

from qednano.api import KINDS
from qednano.api.crd import crd
from qednano.api.generate import ROOT, generated, main


def test_checked_in_files_are_current() -> None:
    assert main(["--check"]) == 0


def test_a_stale_file_fails_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.setattr("qednano.api.generate.ROOT", tmp_path)
    assert main(["--check"]) == 1
    assert "make generate" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert all((ROOT / path).is_file() for path in generated())


@pytest.mark.parametrize("name", KINDS)
def test_schemas_are_structural(name: str) -> None:
    def walk(node: dict, path: str) -> None:
        assert not {"$ref", "anyOf", "allOf", "oneOf", "title", "const", "$defs"} & node.keys(), path
        assert node.get("type"), path
        for child_name, child in node.get("properties", {}).items():
            walk(child, f"{path}.{child_name}")
        for key in ("items", "additionalProperties"):
            if key in node:
                walk(node[key], f"{path}.{key}")

    walk(crd(KINDS[name])["spec"]["versions"][0]["schema"]["openAPIV3Schema"], name)


def test_the_started_spec_is_immutable_but_for_what_the_model_says() -> None:
    rules = crd(KINDS["RLRun"])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"]
    texts = " ".join(item["rule"] for item in rules)
    assert "self.spec.model ==" in texts
    assert "self.spec.rollout.maxModelLength ==" in texts
    assert "self.spec.rollout.replicas ==" not in texts
    assert "self.spec.suspend ==" not in texts


def test_only_rlrun_scales() -> None:
    scales = {name: "scale" in crd(kind)["spec"]["versions"][0]["subresources"] for name, kind in KINDS.items()}
    assert scales == {"ProofDataset": False, "SFTRun": False, "RLRun": True, "EvalRun": False}
