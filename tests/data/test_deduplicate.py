"""Rows that are one problem are found whatever their wording, and the best of them stays."""

from __future__ import annotations

import pytest

from qednano.data.deduplicate import Cluster, Index, Merit, choose, clusters
from qednano.data.form import statement_form
from qednano.data.schema import ProblemRow
from qednano.errors import Stopped


def groups_of(statements):
    index = Index()
    for statement in statements:
        index.add(statement_form(statement))
    return index.groups()


SUM = "Let $a,b,c$ be positive real numbers such that $a+b+c=17$. Prove that $a^4+b^4+c^4 \\ge 29$."
SUM_AGAIN = "Problem 2. Suppose x, y and z are positive reals with x + y + z = 17. Show that x^4 + y^4 + z^4 ≥ 29."
SUM_OTHER = "Let $a,b,c$ be positive real numbers such that $a+b+c=18$. Prove that $a^4+b^4+c^4 \\ge 29$."
CIRCLE = "Let $ABC$ be a triangle with incircle $k$. The median from $A$ meets $k$ at $P$ and $Q$. Prove $AP=AQ$."
CIRCLE_OTHER = CIRCLE.replace("median", "altitude")


def test_exact_and_reworded_duplicates_are_one_group_and_others_are_not():
    assert groups_of([SUM, CIRCLE, SUM_AGAIN, SUM_OTHER, CIRCLE_OTHER, CIRCLE]) == [[0, 2], [1, 5]]


def test_the_groups_depend_on_the_rows_only_up_to_their_order():
    rows = [SUM, CIRCLE, SUM_AGAIN, SUM_OTHER, CIRCLE_OTHER, CIRCLE]
    forward = {frozenset(rows[i] for i in group) for group in groups_of(rows)}
    backward = {frozenset(rows[::-1][i] for i in group) for group in groups_of(rows[::-1])}
    assert forward == backward


def test_a_thousand_copies_are_one_group():
    assert groups_of([SUM] * 1000) == [list(range(1000))]


@pytest.mark.parametrize("statements", [[], [SUM], ["", SUM]])
def test_few_rows_have_no_duplicates(statements):
    assert groups_of(statements) == []


def test_a_stop_is_noticed_while_it_works():
    index = Index()
    index.add(statement_form(SUM))

    def stop():
        raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        index.groups(stop)


@pytest.mark.parametrize(
    ("better", "worse", "why"),
    [
        ({"reference": "R"}, {"solutions": ["a", "b"]}, "it has an official solution"),
        ({"rubric": "[]"}, {"solutions": ["a", "b"]}, "it has a marking scheme"),
        ({"solutions": ["a", "b"]}, {"solutions": ["a"]}, "it has more solutions"),
        ({"answer": "7"}, {}, "it has a final answer"),
        ({}, {"problem": SUM + " Hi!"}, "its statement is the shortest, so it has the least around it"),
    ],
)
def test_the_best_row_stays_and_the_reason_is_said(better, worse, why):
    rows = [ProblemRow(**{"id": "w", "problem": SUM, **worse}), ProblemRow(**{"id": "b", "problem": SUM, **better})]
    merits = {position + 4: Merit.of(row) for position, row in enumerate(rows)}
    assert clusters([[4, 5]], merits) == [Cluster(kept=5, dropped=(4,), why=why)]


def test_of_equal_rows_the_first_stays():
    merit = Merit.of(ProblemRow(id="a", problem=SUM))
    assert choose([3, 8, 9], [merit] * 3) == Cluster(kept=3, dropped=(8, 9), why="it comes first")
