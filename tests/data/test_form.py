"""Two wordings of one problem have one normal form or nearly; other problems have another."""

from __future__ import annotations

import pytest

from qednano.data.form import contradict, statement_form


def similarity(one: str, other: str) -> float:
    first, second = statement_form(one).shingles, statement_form(other).shingles
    return len(first & second) / len(first | second)


SAME = [
    (
        r"Let $a,b,c$ be positive real numbers such that $abc=1$. "
        r"Prove that $\frac{1}{a^3(b+c)} \geq \frac32$. (IMO 1995)",
        "Suppose x, y and z are positive reals with xyz = 1. Show that 1/(x^3(y+z)) ≥ 3/2.",
    ),
    (
        r"Let $x_1, x_2, \ldots, x_n$ be real numbers. Prove $x_1+x_2+\cdots+x_n \le 10$.",
        r"Given reals $a_1,\dots,a_m$, show that $a_1+\dots+a_m\leqslant 10$",
    ),
    (
        r"Find all functions $f:\mathbb{R}\to\mathbb{R}$ such that $f(x+y)=f(x)+f(y)$ for all real $x,y$.",
        r"Problem 5. Determine every function $g : \mathbb R \rightarrow \mathbb R$ satisfying $g(a+b)=g(a)+g(b)$ "
        r"for any $a,b\in\mathbb{R}$",
    ),
    (
        "Let $ABC$ be an acute triangle with $AB=AC$ and incenter $I$.",
        "Consider an acute-angled triangle $XYZ$ such that $XY = XZ$, with incentre $I$. [7 points]",
    ),
    ("Find the greatest common divisor of 1,000 and $12$.", "Compute $\\gcd(1000,12)$."),
    ("There are ten points, no two of which are equal.", "There are 10 points, no two of which are the same."),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_wordings_of_one_problem_agree(one, other):
    first, second = statement_form(one), statement_form(other)
    assert first.signature == second.signature
    assert not contradict(first.contrasts, second.contrasts)
    assert similarity(one, other) >= 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x$ such that $x^2 + 3 = 12$.", "Find $x$ such that $x^2 + 3 = 13$."),
        ("Show that $a^2 + b > 5$.", "Show that $a^2 - b > 5$."),
        ("Let $a_1,\\ldots,a_{2020}$ be reals.", "Let $a_1,\\ldots,a_{2021}$ be reals."),
        ("There are three frogs.", "There are four frogs."),
    ],
)
def test_other_numbers_or_signs_are_another_problem(one, other):
    assert statement_form(one).signature != statement_form(other).signature


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("Find the largest odd number.", "Find the largest even number.", True),
        ("Find the maximum of $f$.", "Find the minimum of $f$.", True),
        ("The median of $ABC$.", "The altitude of $ABC$.", True),
        ("Let $n$ be an integer.", "Let $n$ be a positive integer.", True),
        ("Let $n$ be a natural number.", "Let $n$ be a positive integer.", False),
        ("Let $p$ be a prime.", "Let $p$ be a prime and $n$ an integer.", False),
        ("Let $x$ be a real that is positive.", "Let $x$ be a positive real number.", False),
    ],
)
def test_contrasting_words_are_another_problem(one, other, differ):
    assert contradict(statement_form(one).contrasts, statement_form(other).contrasts) is differ


def test_names_of_variables_do_not_matter_but_their_pattern_does():
    assert statement_form("$a+b=ab$").tokens == statement_form("$u+w=uw$").tokens
    assert statement_form("$a+b=ab$").tokens != statement_form("$a+b=bb$").tokens


def test_fractions_nest():
    assert statement_form(r"$\frac{1}{1+\frac{2}{x}}$").text == "1 / 1 + 2 / v"


@pytest.mark.parametrize("text", ["", "   ", "$", "{", "\\frac", "\\frac{", "Prove that", "]]>", "\\", "ℵ", "證明"])
def test_any_text_has_a_form(text):
    assert isinstance(statement_form(text).signature, int)
