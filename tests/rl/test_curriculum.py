"""Problems in seeded epochs, and those that teach nothing left out."""

from __future__ import annotations

from qednano.data.schema import ProblemRow
from qednano.rl.curriculum import Curriculum, PassRates, group_id, undecided

ROWS = [ProblemRow(id=f"p{number}", problem=f"problem {number}") for number in range(10)]


def test_every_epoch_has_each_problem_once_in_an_order_of_its_own():
    curriculum = Curriculum(ROWS, seed=3)
    epochs = [[curriculum.problem(10 * epoch + place).id for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(row.id for row in ROWS) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [Curriculum(ROWS, seed=3).problem(number).id for number in (25, 4)] == [epochs[2][5], epochs[0][4]]
    assert [Curriculum(ROWS, seed=4).problem(number).id for number in range(10)] != epochs[0]


def test_undecided_numbers_skip_what_was_decided():
    numbers = undecided({group_id(0), group_id(2), group_id(3)})
    assert [next(numbers) for _ in range(3)] == [1, 4, 5]


def test_problems_that_are_passed_always_or_never_are_mostly_left_out(tmp_path):
    known = {"p0": 0.0, "p1": 1.0, "p2": 0.5, "p3": 0.9}
    curriculum = Curriculum(ROWS, 1, PassRates(known, tmp_path / "rates.json"), least=0.1)
    drawn = dict.fromkeys((row.id for row in ROWS), 0)
    for number in range(10 * 400):
        drawn[curriculum.problem(number).id] += curriculum.wanted(number)
    shares = {name: count / 400 for name, count in drawn.items()}
    assert shares["p2"] == 1 and all(shares[f"p{number}"] == 1 for number in range(4, 10)), "never tried: wanted"
    assert 0.05 < shares["p0"] < 0.16 and 0.05 < shares["p1"] < 0.16
    assert 0.28 < shares["p3"] < 0.44  # 4 x 0.9 x 0.1


def test_running_pass_rates_forget_slowly_and_outlive_the_actor(tmp_path):
    rates = PassRates({"a": 0.0}, tmp_path / "rates.json", memory=0.75)
    rates.update("a", [True, True, True, True])
    rates.update("b", [True, False])
    rates.update("c", [])
    assert (rates.get("a"), rates.get("b"), rates.get("c")) == (0.25, 0.5, None)
    rates.save()
    again = PassRates({"a": 0.9, "d": 1.0}, tmp_path / "rates.json")
    assert (again.get("a"), again.get("b"), again.get("d")) == (0.25, 0.5, 1.0), "what was measured beats the dataset"
