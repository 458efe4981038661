from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qednano.errors import DataError
from qednano.tiny import problems
from qednano.tiny.problems import FAMILIES, Problem, generate, parse


def test_same_arguments_give_the_same_problems_and_another_seed_others():
    first = [problem.text for problem in generate(3, 200)]
    assert first == [problem.text for problem in generate(3, 200)]
    assert first != [problem.text for problem in generate(4, 200)]


def test_a_longer_run_begins_with_the_shorter_one():
    assert list(generate(3, 50)) == list(islice(generate(3, 500), 50))


@pytest.mark.parametrize("fold", problems.FOLDS)
def test_no_problem_is_drawn_twice(fold):
    drawn = [problem.text for problem in generate(0, 1500, fold=fold, max_difficulty=3)]
    assert len(set(drawn)) == len(drawn)


def test_folds_share_no_problem_and_no_mirror_image_whatever_the_seeds():
    train = {problem.key for problem in generate(0, 4000)}
    held_out = {problem.key for problem in generate(99, 500, fold="heldout")}
    assert train.isdisjoint(held_out)


def test_a_mirror_image_has_the_same_key_and_fold():
    problem = Problem(power=1, m=5, a=3, r=2, b=4, q=1, c=5)
    mirror = Problem(power=1, m=5, a=4, r=1, b=3, q=2, c=5)
    assert problem.text != mirror.text
    assert (problem.key, problem.fold) == (mirror.key, mirror.fold)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("difficulty", [1, 2, 4])
def test_family_and_difficulty_are_what_was_asked(family, difficulty):
    drawn = generate(1, 40, families=[family], min_difficulty=difficulty, max_difficulty=difficulty)
    assert {(problem.family, problem.difficulty) for problem in drawn} == {(family, difficulty)}


def test_a_family_named_twice_comes_about_twice_as_often():
    drawn = [problem.family for problem in generate(0, 900, families=["linear", "linear", "congruence"])]
    assert 540 < drawn.count("linear") < 660


def test_what_is_asked_is_true_for_all_unknowns():
    for problem in generate(5, 300, max_difficulty=3):
        for k, l in [(0, 0), (1, 2), (7, 3)]:  # noqa: E741
            n, x = problem.m * k + problem.r, problem.m * l + problem.q
            value = problem.a * n**problem.power + problem.b * x + problem.c
            assert value % problem.m == problem.residue


@pytest.mark.parametrize("family", FAMILIES)
def test_every_text_reads_back_as_its_problem(family):
    for problem in generate(2, 300, families=[family], max_difficulty=6):
        assert parse(problem.text) == problem


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Prove 5 | E.",
        "n = 5k + 2, x = 7l + 1, E = 3n + 4x + 5. Prove 5 | E.",  # two moduli
        "n = 5k + 2, x = 5l + 1, E = 3n + 4x + 6. Prove 5 | E.",  # false
        "n = 5k + 2, x = 5l + 1, E = 3n + 4x + 5. Prove E ≡ 1 (mod 5).",  # false
        "n = ٥k + 2, x = ٥l + 1, E = 3n + 4x + 5. Prove ٥ | E.",  # digits of another script
    ],
)
def test_a_text_that_is_no_true_problem_is_refused(text):
    with pytest.raises(DataError):
        parse(text)


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_reading_any_text_ends_in_a_problem_or_a_data_error(text):
    with pytest.raises(DataError):
        parse(text)


def test_asking_for_more_than_there_is_says_how_many_there_are():
    with pytest.raises(DataError, match=r"has only \d+ problems in the heldout fold, 5000 were asked for"):
        list(generate(0, 5000, fold="heldout", families=["quadratic"], max_difficulty=1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fold": "test"}, "unknown fold 'test'"),
        ({"families": ["cubic"]}, "unknown families"),
        ({"min_difficulty": 3, "max_difficulty": 2}, "min <= max"),
        ({"max_difficulty": 99}, "min <= max"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    with pytest.raises(DataError, match=said):
        next(generate(0, 1, **arguments))


@settings(max_examples=50)
@given(size=st.integers(1, 2000), key=st.text(max_size=8))
def test_the_walk_visits_every_index_once(size, key):
    assert sorted(problems._permutation(size, key)) == list(range(size))
