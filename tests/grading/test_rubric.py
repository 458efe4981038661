"""A marking scheme is worth exactly seven points, and a proof's score follows from it."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qednano.errors import DataError
from qednano.grading.rubric import Rubric, score

SCHEME = {
    "checkpoints": [
        {"id": "C1", "description": "Reduces to the case n prime.", "points": 2},
        {"id": "C2", "description": "Concludes.", "points": 1},
    ],
    "parallel": [
        {
            "id": "P",
            "description": "The main lemma",
            "chains": [
                {
                    "id": "A",
                    "description": "by induction",
                    "checkpoints": [
                        {"id": "A1", "description": "Base.", "points": 1, "critical": True},
                        {"id": "A2", "description": "Step.", "points": 3, "critical": True},
                    ],
                },
                {
                    "id": "B",
                    "description": "by contradiction, in part",
                    "checkpoints": [{"id": "B1", "description": "Minimal counterexample.", "points": 2}],
                },
            ],
        }
    ],
    "zero_credit": [{"id": "Z1", "description": "Checks small cases."}],
    "deductions": [{"id": "D1", "description": "A sign is wrong.", "points": 1}],
    "caps": [
        {"id": "K1", "description": "Uses the claim.", "at_most": 1},
        {"id": "K2", "description": "Skips the case n = 2.", "at_most": 5},
    ],
}


def changed(change):
    scheme = copy.deepcopy(SCHEME)
    change(scheme)
    return json.dumps(scheme)


@pytest.fixture(scope="module")
def rubric():
    return Rubric.parse(json.dumps(SCHEME))


def test_a_sound_scheme_has_a_perfect_path_worth_seven(rubric):
    assert [checkpoint.id for checkpoint in rubric.perfect_path()] == ["C1", "C2", "A1", "A2"]
    assert score(rubric, {"C1": 2, "C2": 1, "A1": 1, "A2": 3}).score == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["checkpoints"][0].update(points=3), "a perfect proof earns 8"),
        (lambda s: s["checkpoints"].pop(), "no proof earns full marks"),
        (lambda s: s["parallel"][0]["chains"][1]["checkpoints"][0].update(points=7), "earns 10"),
        (lambda s: s["checkpoints"][0].update(points=0), "checkpoints.0.points"),
        (lambda s: s["checkpoints"][0].update(points="2.5"), "checkpoints.0.points"),
        (lambda s: s["checkpoints"][1].update(id="C1"), "the id C1 is used twice"),
        (lambda s: s["zero_credit"][0].update(id="A2"), "the id A2 is used twice"),
        (lambda s: s["zero_credit"][0].update(points=1), "zero_credit.0.points"),
        (lambda s: s["parallel"][0]["chains"].pop(), "parallel.0.chains"),
        (lambda s: s["caps"][0].update(at_most=7), "caps.0.at_most"),
        (lambda s: s["deductions"][0].update(points=-1), "deductions.0.points"),
        (lambda s: s["parallel"][0]["chains"][0]["checkpoints"][1].update(critical=False), "critical steps earn 1"),
        (lambda s: s["checkpoints"][0].update(description=" "), "checkpoints.0.description"),
        (lambda s: s.update(bonus=[]), "bonus"),
        (lambda s: [s.pop(key) for key in list(s)], "a perfect proof earns 0"),
    ],
)
def test_an_unsound_scheme_is_refused_with_the_reason(change, said):
    with pytest.raises(DataError, match="row 5") as caught:
        Rubric.parse(changed(change), "the scheme of row 5")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "7"])
def test_text_that_is_no_scheme_is_refused(text):
    with pytest.raises(DataError):
        Rubric.parse(text)


@pytest.mark.parametrize(
    ("awarded", "flaws", "expected"),
    [
        ({}, set(), 0),
        ({"C1": 2, "C2": 1}, set(), 3),
        ({"A1": 1, "B1": 2}, set(), 2),
        ({"A1": 1, "A2": 3, "B1": 2}, set(), 4),
        ({"C1": 2, "C2": 1, "A1": 1, "A2": 3}, {"D1"}, 6),
        ({"C1": 2, "C2": 1, "A1": 1, "A2": 3}, {"K2"}, 5),
        ({"C1": 2, "C2": 1, "A1": 1, "A2": 3}, {"K1", "K2", "D1"}, 1),
        ({"C1": 1}, {"D1"}, 0),
        ({}, {"D1"}, 0),
        ({"C1": 1}, {"K2"}, 1),
    ],
)
def test_the_score_adds_checkpoints_takes_the_best_chain_and_applies_flaws(rubric, awarded, flaws, expected):
    assert score(rubric, awarded, flaws).score == expected


def test_the_marks_say_what_counted_and_what_capped(rubric):
    marks = score(rubric, {"C1": 2, "A1": 1, "A2": 3, "B1": 2}, {"K1", "D1"})
    assert marks.counted == {"C1": 2, "C2": 0, "A1": 1, "A2": 3}
    assert (marks.earned, marks.deducted, marks.capped_at, marks.score) == (6, 1, 1, 1)


@pytest.mark.parametrize(
    ("awarded", "flaws"),
    [
        ({"X": 1}, set()),
        ({"C1": 3}, set()),
        ({"C1": -1}, set()),
        ({"C1": True}, set()),
        ({}, {"Z1"}),
        ({"Z1": 1}, set()),
    ],
)
def test_points_that_the_scheme_does_not_have_are_refused(rubric, awarded, flaws):
    with pytest.raises(DataError):
        score(rubric, awarded, flaws)


@settings(deadline=None)
@given(st.data())
def test_no_award_leaves_zero_to_seven(data):
    rubric = Rubric.parse(json.dumps(SCHEME))
    awarded = {item.id: data.draw(st.integers(0, item.points)) for item in rubric.all_checkpoints()}
    flaws = data.draw(st.sets(st.sampled_from(["D1", "K1", "K2"])))
    marks = score(rubric, awarded, flaws)
    assert 0 <= marks.score <= min(7, marks.earned)


def test_the_scheme_is_told_with_every_part(rubric):
    told = rubric.told()
    for part in rubric.parts():
        assert f"[{part.id}]" in told and part.description in told
    assert "never their sum" in told
