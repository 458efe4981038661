"""The rules that the API server applies to an EvalRun say the same as the model."""

from __future__ import annotations

from pathlib import Path

import cel
import pytest
import yaml
from pydantic import ValidationError

from qednano.api import EvalRunSpec

CRD = Path(__file__).resolve().parents[2] / "charts/qednano/files/crds/evalruns.qednano.dev.yaml"
CHECKER = {"checker": {"name": "tiny-divisibility"}}
MODEL = {"model": {"uri": "/m"}, "benchmark": {"uri": "b.jsonl"}, "grader": CHECKER}
GRADERS = {"graderEvaluation": {"data": {"known": "proofbench"}, "graders": [{"name": "a", "grader": CHECKER}]}}


def spec_schema():
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]


def refused(schema, value, defaults=None):
    """Messages of the schema's own rules that the value breaks."""
    found = []
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue
        if not cel.evaluate(rule["rule"], {"self": {**(defaults or {}), **value}}):
            found.append(rule["message"])
    return found


DEFAULTS = {"sampling": {"maxTokens": 512}, "server": {"maxModelLength": 1024}}


@pytest.mark.parametrize("spec", [MODEL, GRADERS])
def test_each_mode_alone_is_allowed(spec):
    assert refused(spec_schema(), spec, DEFAULTS) == []
    EvalRunSpec.model_validate(spec)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {**MODEL, **GRADERS},
        {"grader": CHECKER, **GRADERS},
        *({name: value for name, value in MODEL.items() if name != left} for left in MODEL),
    ],
)
def test_both_modes_or_half_a_mode_are_refused_by_both(spec):
    assert refused(spec_schema(), spec, DEFAULTS) == [
        "set model, benchmark and grader to evaluate a model, or graderEvaluation alone for graders"
    ]
    with pytest.raises(ValidationError):
        EvalRunSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("benchmark", "right"),
    [
        ({"known": "imo-proofbench", "revision": "abc"}, True),
        ({"uri": "b.jsonl"}, True),
        ({"hub": {"id": "a/b"}}, True),
        ({}, False),
        ({"uri": "b.jsonl", "known": "proofbench"}, False),
        ({"uri": "b.jsonl", "revision": "abc"}, False),
    ],
)
def test_a_benchmark_has_one_place_by_both(benchmark, right):
    schema = spec_schema()["properties"]["benchmark"]
    assert (refused(schema, benchmark) == []) is right
    if right:
        EvalRunSpec.model_validate({**MODEL, "benchmark": benchmark})
    else:
        with pytest.raises(ValidationError):
            EvalRunSpec.model_validate({**MODEL, "benchmark": benchmark})
