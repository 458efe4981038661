"""The arithmetic of the benches that compare two sides."""

from __future__ import annotations

import json

import pytest

from bench.figures import ratios, report
from bench.snapshots import Point, reached

CURVE = [Point(10, 18, 5, 0.25), Point(20, 37, 10, 0.5), Point(30, 56, 15, 1.0)]


def test_the_ratio_is_the_rounds_median_and_its_spread_is_told():
    assert ratios("time", [2, 9, 3], [1, 3, 3]) == {"time": 2.0, "time_least": 1.0, "time_most": 3.0}
    with pytest.raises(ValueError):
        ratios("time", [1, 2], [1])


def test_a_target_between_two_snapshots_is_reached_between_them():
    assert reached(CURVE, 0.75) == Point(25, 46.5, 12, 0.75)
    assert reached(CURVE, 0.5) == Point(20, 37, 10, 0.5)


def test_a_target_that_the_first_snapshot_has_was_reached_by_then():
    assert reached(CURVE, 0.125) == Point(10, 18, 5, 0.125)


def test_a_target_that_is_never_reached_is_said():
    with pytest.raises(SystemExit, match=r"0\.95 was not reached in 15 steps; the last is 0\.900"):
        reached([*CURVE[:2], Point(30, 56, 15, 0.9)], 0.95)


def test_one_bar_missed_fails_the_bench(capsys):
    assert report("x", {"speedup": 1.9, "memory": 0.1}, {"speedup": (">=", 2.0), "memory": ("<=", 0.8)}) == 1
    assert json.loads(capsys.readouterr().out)["pass"] is False
    assert report("x", {"speedup": 2.0}, {"speedup": (">=", 2.0)}) == 0
