from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qednano.errors import DataError
from qednano.tiny import teacher
from qednano.tiny.checker import FULL_SCORE, check
from qednano.tiny.problems import FAMILIES, generate

PROBLEM = "n = 5k + 2, x = 5l + 1, E = 3n + 4x + 5. Prove 5 | E."
PROOF = [
    "3n = 15k + 6",
    "4x = 20l + 4",
    "6 + 4 = 10",
    "10 + 5 = 15",
    "E = 5(3k + 4l + 3)",
    "So 5 | E.",
]
CONGRUENCE = "n = 5k + 2, x = 5l + 1, E = 3n + 4x + 7. Prove E ≡ 2 (mod 5)."
CONGRUENCE_PROOF = [*PROOF[:3], "10 + 7 = 17", "E = 5(3k + 4l + 3) + 2", "So E ≡ 2 (mod 5)."]
PROBLEMS = list(generate(11, 150, max_difficulty=4))


def score(*lines: str, problem: str = PROBLEM) -> int:
    return check(problem, "\n".join(lines)).score


def without(number: int) -> list[str]:
    return PROOF[:number] + PROOF[number + 1 :]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("difficulty", [1, 3, 10])
def test_the_perfect_proof_of_any_problem_scores_full(family, difficulty):
    for problem in generate(0, 60, families=[family], min_difficulty=difficulty, max_difficulty=difficulty):
        result = check(problem.text, teacher.write(problem, random.Random(0)))
        assert (result.score, result.error, result.deductions) == (FULL_SCORE, None, [])


def test_checkpoints_say_which_line_earned_what():
    rows = check(PROBLEM, "\n".join(PROOF)).checkpoints
    assert [(row.name, row.earned, row.line) for row in rows] == [
        ("substitute n", 1, 1),
        ("substitute x", 1, 2),
        ("add remainders", 1, 3),
        ("add constant", 1, 4),
        ("factor", 2, 5),
        ("conclude", 1, 6),
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (without(0), 3),
        (without(1), 3),
        (without(2), 3),
        (without(3), 3),
        (without(4), 4),  # neither factored nor, therefore, concluded
        (without(5), 6),
        (PROOF[:1], 1),
        (PROOF[:4], 4),
        ([PROOF[4], PROOF[5]], 3),
        ([PROOF[5]], 0),
        (["3n = 15k + 7", *PROOF[1:]], 2),
        ([*PROOF[:2], "6 + 4 = 11", "11 + 5 = 16", *PROOF[4:]], 2),
        ([*PROOF[:4], "E = 5(3k + 4l + 4)", PROOF[5]], 2),
        (["Hello!", *PROOF], 2),
        ([*PROOF[:5], "So 7 | E."], 2),
        ([*PROOF[:5], "So E ≡ 1 (mod 5)."], 0),
        ([*PROOF, "So 5 ∤ E."], 0),
        ([*PROOF, PROOF[0]], 6),
        ([PROOF[0], *PROOF], 6),
        ([PROOF[0]] * 12 + PROOF, 0),
    ],
)
def test_the_marking_scheme(lines, expected):
    assert score(*lines) == expected


@pytest.mark.parametrize(
    "lines",
    [
        ["4x = 20l + 4", "3n = 15k + 6", *PROOF[2:]],  # another order
        [*PROOF[:2], "6 + 4 + 5 = 10 + 5 = 15", *PROOF[4:]],  # one chain
        [*PROOF[:2], "4 + 6 = 10", "5 + 10 = 15", *PROOF[4:]],  # terms exchanged
        ["3n = 3(5k + 2) = 15k + 6", *PROOF[1:]],
        [*PROOF[:4], "E = 3n + 4x + 5 = 15k + 20l + 15 = 5(3k + 4l + 3)", "Therefore 5 | E."],
        [line.replace(" ", "") for line in PROOF[:5]] + ["So 5 | E"],  # spacing
        [*PROOF[:4], "E = 5 * (3k + 4l + 3)".replace(" * ", ""), PROOF[5]],
    ],
)
def test_other_ways_to_write_the_same_proof_score_full(lines):
    assert score(*lines) == FULL_SCORE


def test_a_residue_is_checked_like_divisibility():
    assert score(*CONGRUENCE_PROOF, problem=CONGRUENCE) == FULL_SCORE
    assert score(*CONGRUENCE_PROOF[:5], "So E ≡ 3 (mod 5).", problem=CONGRUENCE) == 0
    assert score(*CONGRUENCE_PROOF[:5], "So 5 | E.", problem=CONGRUENCE) == 0
    assert score(*CONGRUENCE_PROOF[:4], "E = 5(3k + 4l) + 17", CONGRUENCE_PROOF[5], problem=CONGRUENCE) == 4


def test_a_proof_of_another_problem_earns_next_to_nothing():
    for problem, other in zip(PROBLEMS, PROBLEMS[1:], strict=False):
        assert check(problem.text, teacher.write(other, random.Random(0))).score <= 2


@pytest.mark.parametrize("second", ["So 5 ∤ E.", "So E ≡ 1 (mod 5).", "5 does not divide E.", "So 5 | E is false."])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_asserting_both_conclusions_scores_nothing_wherever_they_stand(second, place):
    assert score(*PROOF[:place], second, *PROOF[place:]) == 0


def test_both_conclusions_in_one_line_do_not_pass():
    assert score(*PROOF[:5], "So 5 | E and E ≡ 1 (mod 5).") <= 2


@pytest.mark.parametrize(
    "proof",
    [
        "",
        " \n ",
        "x" * 1_000_000,
        "\n" * 1_000_000,
        "\n".join(PROOF * 1000),
        "3n = " + "9" * 3000,
        "(" * 2000 + ")" * 2000,
        "E = " + "(k + l)^2" * 9,
        "E = (((((((((k)))))))))",
        "3n = " + " + ".join(["15k"] * 500),
        "=" * 500,
        "٣n = ١٥k + ٦",
        "³n = 15k + 6",
        "3n = 15k + 6\x00",
        "k^2^2^2^2 = 1",
        "k^",
        "E = 5(",
        "5() = E",
        "+ = +",
        "Score: 7/7. The proof is complete and correct.",
    ],
)
def test_hostile_text_scores_nothing_and_quickly(proof):
    began = time.perf_counter()
    result = check(PROBLEM, proof)
    assert result.score == 0
    assert result.error
    assert time.perf_counter() - began < 0.5


@settings(max_examples=300)
@given(st.text(max_size=400))
def test_no_text_breaks_the_checker_or_earns_points_by_chance(text):
    assert check(PROBLEM, text).score == 0


@settings(max_examples=300)
@given(st.text(alphabet="0123456789nxklE+=()^ \n.|So≡mod∤*", max_size=200))
def test_text_in_the_proofs_own_alphabet_never_scores_full_by_chance(text):
    assert check(PROBLEM, text).score < FULL_SCORE


@settings(max_examples=300)
@given(data=st.data(), problem=st.sampled_from(PROBLEMS))
def test_changing_any_one_digit_never_keeps_the_full_score(data, problem):
    proof = teacher.write(problem, random.Random(0))
    place = data.draw(st.sampled_from([i for i, character in enumerate(proof) if character.isdigit()]))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != proof[place]]))
    assert check(problem.text, proof[:place] + digit + proof[place + 1 :]).score <= 2


@settings(max_examples=200)
@given(problem=st.sampled_from(PROBLEMS), kept=st.sets(st.integers(0, 5), max_size=5))
def test_leaving_out_lines_never_keeps_the_full_score(problem, kept):
    lines = teacher.steps(problem)
    result = check(problem.text, "\n".join(lines[number] for number in sorted(kept)))
    assert result.score < FULL_SCORE
    assert result.error


@settings(max_examples=200)
@given(problem=st.sampled_from(PROBLEMS), junk=st.text(min_size=1, max_size=60), place=st.integers(0, 6))
def test_no_added_line_raises_the_score(problem, junk, place):
    lines = teacher.steps(problem)
    del lines[2]
    before = check(problem.text, "\n".join(lines)).score
    lines.insert(place, junk)
    assert check(problem.text, "\n".join(lines)).score <= before


def test_a_text_that_is_no_problem_is_an_error_not_a_zero():
    with pytest.raises(DataError, match="not a tiny-divisibility problem"):
        check("Prove that 2 + 2 = 4.", "\n".join(PROOF))


def test_two_thousand_proofs_a_second():
    rng = random.Random(0)
    pairs = [(problem.text, teacher.write(problem, rng, 60)) for problem in PROBLEMS for _ in range(4)]
    began = time.process_time()  # of this process, so that a busy machine doesn't matter
    for problem, proof in pairs:
        check(problem, proof)
    assert len(pairs) / (time.process_time() - began) > 2000
