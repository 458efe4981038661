from __future__ import annotations

import threading

import pytest

from qednano.data.final_answer import final_answer, reads_as_mathematics


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("So \\boxed{7} is wrong, and it is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("Therefore the final answer is $n = 5$.", "n = 5"),
        ("Hence it works.\nAnswer: $2^{10}-1$", "2^{10}-1"),
        ("The answer is 42. We are done.", "42"),
        ("The answer is $3.5$.", "3.5"),
        ("The answer is $n=5$ or $n=7$.", "$n=5$ or $n=7$"),
        ("We are done, since $a \\le b$.", None),
        ("The answer is: see the paper by Erdős!", None),
        ("The answer is 4. " + "But that was only a lemma and the proof goes on. " * 30, None),
    ],
)
def test_the_answer_is_what_a_solution_boxes_or_states(solution, answer):
    assert final_answer(solution) == answer


def test_a_boxed_answer_may_be_beyond_math_verify():
    assert final_answer("$\\boxed{n \\equiv 1 \\pmod 3}$") == "n \\equiv 1 \\pmod 3"
    assert not reads_as_mathematics("n \\equiv 1 \\pmod 3")


def test_any_thread_may_ask():
    found = []
    thread = threading.Thread(target=lambda: found.append(reads_as_mathematics("\\frac{1}{2}")))
    thread.start()
    thread.join()
    assert found == [True]
