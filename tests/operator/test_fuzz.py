"""No spec, however strange, ends a pass with an error: the run says what is wrong with it, and others are served."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qednano_operator.cache import Cache, compact

from qednano.api import KINDS
from tests.operator.simulation import Simulation

_ODD = st.sampled_from(
    ["", "x" * 3000, "\x00", "../..", "$(id)", "NaN", "1e999", "9999-12-31T23:59:59Z", 0, -1, 10**30, -0.5]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | _ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_RICH: dict[str, dict[str, Any]] = {
    "SFTRun": {"model": {"sftRun": {"name": "base"}}, "dataset": {"proofDataset": {"name": "data", "split": "sft"}}},
    "RLRun": {"trainer": {"nodes": 2, "resources": {"gpus": 1}}, "scheduling": {"queueName": "team"}},
    "EvalRun": {"model": {"rlRun": {"name": "rl", "checkpoint": "Best"}}},
    "ProofDataset": {},
}
_EVERY = {
    "limits": {"stallSeconds": 60},
    "ttlSecondsAfterFinished": 60,
    "profile": "",
    "artifacts": {"retention": "Keep"},
}


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from _paths(item, (*path, key))


def _replaced(spec: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    spec = copy.deepcopy(spec)
    part = spec
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return spec


@st.composite
def strange(draw: st.DrawFn) -> tuple[str, Any]:
    """A kind, and a spec of it with some field replaced by anything, or with one that nobody knows."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    spec = Simulation.of(kind, **_RICH[kind], **_EVERY).run["spec"]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(_paths(spec), key=repr)))
        spec = _replaced(spec, path, draw(_JSON))
    if isinstance(spec, dict) and draw(st.booleans()):
        spec[draw(st.text(max_size=5))] = draw(_JSON)
    return kind, spec


@settings(max_examples=150, deadline=None)
@given(strange())
def test_a_fresh_run_with_any_spec_is_judged(drawn: tuple[str, Any]) -> None:
    kind, spec = drawn
    simulation = Simulation.of(kind)
    simulation.run["spec"] = spec
    for _ in range(3):
        simulation.operator()
        simulation.controllers()
    assert simulation.status["phase"]
    cache = Cache()
    cache.put(compact(kind, simulation.run))
    cache.world((kind, "ns", "tiny"), {})


@pytest.fixture(scope="module")
def started() -> dict[str, Simulation]:
    """A running run of each kind."""
    found = {kind: Simulation.of(kind) for kind in KINDS}
    for simulation in found.values():
        simulation.settle(code=None)
    return found


@settings(max_examples=150, deadline=None)
@given(drawn=strange())
def test_a_started_run_goes_on_whatever_its_spec_becomes(
    started: dict[str, Simulation], drawn: tuple[str, Any]
) -> None:
    kind, spec = drawn
    simulation = copy.deepcopy(started[kind])
    simulation.run["spec"] = spec
    simulation.operator()
    assert simulation.status["phase"] in ("Running", "Suspending", "Failed"), simulation.status
    if simulation.status["phase"] == "Failed":
        assert isinstance(spec, dict) and spec.get("cancel") is True
