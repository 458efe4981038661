from __future__ import annotations

import random

import pytest

from qednano.errors import DataError
from qednano.tiny import teacher
from qednano.tiny.checker import check
from qednano.tiny.problems import generate

SCORES = {
    "no first substitution": 3,
    "no second substitution": 3,
    "no sum": 3,
    "no factoring": 4,
    "wrong digit": 2,
}


@pytest.mark.parametrize("flaw", teacher.FLAWS)
def test_each_flaw_has_the_score_the_marking_scheme_gives_it(flaw):
    rng = random.Random(0)
    scores = {
        check(problem.text, teacher.write_flawed(problem, flaw, rng)).score
        for problem in generate(0, 200, max_difficulty=4)
    }
    assert scores == {SCORES[flaw]}


@pytest.mark.parametrize("percent", [0, 60, 100])
def test_the_share_of_flawed_proofs_is_what_was_asked(percent):
    rng = random.Random(1)
    drawn = list(generate(0, 1000))
    flawed = sum(check(problem.text, teacher.write(problem, rng, percent)).score < 7 for problem in drawn)
    assert abs(flawed / len(drawn) - percent / 100) < 0.05


def test_the_same_random_state_gives_the_same_proof():
    problem = next(generate(0, 1))
    assert teacher.write(problem, random.Random(5), 100) == teacher.write(problem, random.Random(5), 100)


def test_an_unknown_flaw_is_named():
    with pytest.raises(DataError, match="unknown flaw 'typo'"):
        teacher.write_flawed(next(generate(0, 1)), "typo", random.Random(0))
