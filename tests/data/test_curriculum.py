"""Curricula: bands, mixes in proportion, and orders, with rows that have no measure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qednano.api.data_stages import Band, CurriculumStage, Order
from qednano.data.curriculum import Curriculum, band_of, mixed, ranks
from qednano.data.reorder import reordered
from qednano.data.schema import ProblemRow
from qednano.data.shards import Build
from qednano.data.stage import Place, StageWork, Tally
from qednano.progress import Reporter


def row(number, rate):
    return ProblemRow(f"p{number}", f"Problem {number}", pass_rate=rate, attempts=8)


def run(rows, tmp_path, **spec):
    build = Build(tmp_path, Reporter(), lambda: None, lambda: None)
    work = StageWork(lambda: iter(rows), len(rows), tmp_path, build)
    stage = Curriculum(CurriculumStage(**spec), Place("stages/0/curriculum", "curriculum", seed=3))
    stage.prepare(work)
    tally = Tally()
    left = [stage.apply(position, item, tally) for position, item in enumerate(stage.reordered(work))]
    assert len(left) == len(rows)
    return [item for item in left if item is not None], tally


def test_a_band_holds_its_ends_and_the_first_that_holds_a_row_has_it():
    bands = [Band(name="hard", min_percent=7, max_percent=50), Band(name="easy", min_percent=50, max_percent=90)]
    assert [band_of(value, bands) for value in (0.07, 0.5, 0.51, 0.9, 0.91, 0.0, None)] == [0, 0, 1, 1, -2, -2, -1]
    assert band_of(0.3, []) == 0


def test_a_mix_keeps_the_shares_and_as_much_as_it_can():
    fates = np.array([0] * 50 + [1] * 10 + [-1] * 5)
    bands = [Band(name="a", share=2), Band(name="b", share=1)]
    left = mixed(fates, bands, seed=0)
    assert [(left == value).sum() for value in (0, 1, -3, -1)] == [20, 10, 30, 5]
    assert (mixed(fates, bands, seed=0) == left).all() and (mixed(fates, bands, seed=1) != left).any()


def test_a_mix_with_an_empty_band_is_empty():
    left = mixed(np.array([0, 0, 0]), [Band(name="a", share=2), Band(name="b", share=1)], seed=0)
    assert (left == -3).all()


@pytest.mark.parametrize(
    ("order", "expected"),
    [(Order.SOURCE, [0, 1, 2, 3]), (Order.EASY_FIRST, [2, 0, 3, 1]), (Order.HARD_FIRST, [0, 3, 2, 1])],
)
def test_orders_are_stable_and_end_in_what_has_no_measure(order, expected):
    found = ranks(np.array([0.25, math.nan, 0.75, 0.25]), order, seed=0)
    assert np.argsort(found).tolist() == expected


def test_rows_leave_in_order_and_each_that_goes_says_why(tmp_path):
    rows = [row(0, 0.5), row(1, None), row(2, 1.0), row(3, 0.25), row(4, 0.0), row(5, 0.75)]
    left, tally = run(
        rows, tmp_path, bands=[{"name": "learnable", "minPercent": 10, "maxPercent": 90}], order="EasyFirst"
    )
    assert [item.id for item in left] == ["p5", "p0", "p3"]
    assert tally.counts == {"band learnable": 3, "dropped InNoBand": 2, "dropped Unmeasured": 1}
    assert {entry["id"]: entry["reason"] for entry in tally.log} == {
        "p1": "it has no PassRate: put the stage difficulty before this one",
        "p2": "its PassRate is 100.0%",
        "p4": "its PassRate is 0.0%",
    }


def test_rows_without_a_measure_may_stay_and_come_last(tmp_path):
    left, _ = run([row(0, None), row(1, 0.1), row(2, 0.9)], tmp_path, keep_unmeasured=True, order="EasyFirst")
    assert [item.id for item in left] == ["p2", "p1", "p0"]


def test_a_shuffle_is_a_permutation_that_the_seed_decides(tmp_path):
    rows = [row(number, 0.5) for number in range(50)]
    left, _ = run(rows, tmp_path, order="Shuffled")
    again, _ = run(rows, tmp_path, order="Shuffled")
    assert left == again and left != rows and sorted(left, key=lambda item: int(item.id[1:])) == rows


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 2000])
def test_reordering_through_the_disk_is_a_sort(tmp_path, count):
    rng = np.random.default_rng(0)
    rows = [row(number, 0.5) for number in range(count)]
    places = rng.permutation(count)
    found = list(reordered(rows, places, tmp_path / "order"))
    expected = [None] * count
    for item, place in zip(rows, places.tolist(), strict=True):
        expected[place] = item
    assert found == expected
    assert not (tmp_path / "order").exists()
