from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qednano.data.split import Ledger, Wanted, normalised
from qednano.errors import DataError


def selected(problems, counts, seed=0):
    ledger = Ledger(seed)
    for number, problem in enumerate(problems):
        ledger.add(problem, str(number))
    splits = [Wanted(f"s{number}", count) for number, count in enumerate(counts)]
    return [positions.tolist() for positions in ledger.select(splits)]


@given(st.lists(st.text(max_size=6), max_size=60), st.data())
def test_splits_have_the_size_asked_and_share_no_problem(problems, data):
    different = len({normalised(problem) for problem in problems})
    first = data.draw(st.integers(0, different))
    second = data.draw(st.integers(0, different - first))
    splits = selected(problems, [first, second])
    assert [len(split) for split in splits] == [first, second]
    assert all(split == sorted(split) for split in splits)
    texts = [normalised(problems[position]) for split in splits for position in split]
    assert len(set(texts)) == len(texts)


def test_a_problem_goes_by_its_text_not_by_its_place():
    problems = [f"Problem {number}" for number in range(100)]
    [chosen] = selected(problems, [20])
    [again] = selected(problems[::-1], [20])
    assert {problems[position] for position in chosen} == {problems[::-1][position] for position in again}


def test_the_seed_decides_the_draw():
    problems = [f"Problem {number}" for number in range(100)]
    assert selected(problems, [20], seed=0) == selected(problems, [20], seed=0)
    assert selected(problems, [20], seed=0) != selected(problems, [20], seed=1)


@pytest.mark.parametrize("same", ["PROVE   it.", "prove it. ", "\n Prove\tit.", "Ｐrove it."])
def test_spacing_case_and_compatibility_forms_make_no_new_problem(same):
    assert selected(["Prove it.", same], [1]) == [[0]]


def test_too_few_problems_are_counted_without_repetitions():
    with pytest.raises(DataError, match="ask for 3 problems, the source has 2 different ones in 3 rows"):
        selected(["A", "B", "a"], [2, 1])


def test_two_problems_with_one_id_are_named():
    ledger = Ledger(0)
    for problem, identifier in [("A", "1"), ("B", "2"), ("C", "1")]:
        ledger.add(problem, identifier)
    with pytest.raises(DataError, match="records 1 and 3 of the source are different problems with the same id"):
        ledger.select([Wanted("all", 3)])
