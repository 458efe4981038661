"""Selection of candidates: thresholds, lengths, best of n, and why each other one was left out."""

from __future__ import annotations

import pytest

from qednano.api.data_stages import SelectStage
from qednano.data.schema import Candidate, ProblemRow
from qednano.data.select import Select, fault
from qednano.data.stage import Place, Tally


def candidate(score=7.0, proof="a proof", tokens=100, **more):
    return Candidate(proof, more.pop("reasoning", ""), score=score, completion_tokens=tokens, **more)


def selected(candidates, **spec):
    tally = Tally()
    row = ProblemRow("p", "Prove it.", candidates=candidates)
    return Select(SelectStage(**spec), Place("stages/0/select", "select")).apply(0, row, tally), tally


@pytest.mark.parametrize(
    ("changes", "spec", "why"),
    [
        ({}, {}, None),
        ({"finish_reason": "length"}, {}, "cut off"),
        ({"proof": ""}, {}, "no proof"),
        ({"proof": "x" * 9}, {"min_characters": 10}, "length"),
        ({"proof": "x" * 11}, {"max_characters": 10}, "length"),
        ({"tokens": 1001}, {"max_tokens": 1000}, "too many tokens"),
        ({"score": None}, {"min_score": "0"}, "no score"),
        ({"score": 5.9}, {"min_score": "6"}, "score too low"),
        ({"score": 6.0}, {"min_score": "6"}, None),
        ({"votes": [7.0, 5.0]}, {"max_disagreement": 1}, "gradings disagree"),
        ({"votes": [7.0, 6.0]}, {"max_disagreement": 1}, None),
    ],
)
def test_why_a_candidate_is_left_out(changes, spec, why):
    assert fault(candidate(**changes), SelectStage(**spec)) == why


def test_the_best_come_first_and_of_equal_ones_the_shortest():
    found, tally = selected(
        [
            candidate(6.0, "six", 10, reasoning="hm"),
            candidate(7.0, "long seven", 300, reasoning="hmm"),
            candidate(7.0, "seven", 200, reasoning="hmmm"),
            candidate(3.0, "three"),
        ],
        per_problem=2,
    )
    assert found.solutions == ["seven", "long seven"]
    assert found.reasoning == ["hmmm", "hmm"] and found.scores == [7.0, 7.0]
    assert found.candidates == []
    assert tally.counts == {"left out, score too low": 1, "left out, others are better": 1, "selected": 2}


def test_a_proof_that_comes_twice_is_taken_once():
    found, tally = selected([candidate(), candidate()], per_problem=4)
    assert found.solutions == ["a proof"] and tally.counts["left out, repeated"] == 1


def test_a_row_without_a_good_candidate_is_dropped_with_its_best_score():
    found, tally = selected([candidate(5.0), candidate(2.0, "other")])
    assert found is None
    assert tally.log[0]["reason"] == "of 2 candidates none is good enough; the best score is 5"
    assert tally.counts["dropped Unsolved"] == 1


def test_a_row_without_a_good_candidate_stays_where_it_is_wanted():
    found, _ = selected([candidate(5.0)], keep_unsolved=True)
    assert found.solutions == [] and found.candidates == []
