"""Each rule drops what it names, says why, and lets ordinary statements through."""

from __future__ import annotations

import pytest

from qednano.api.proofdataset import DropRule
from qednano.data.filters import RULES, first_reason, language_of, language_rule, length_rules
from qednano.data.schema import ProblemRow

ORDINARY = [
    "Let $a,b,c$ be positive reals with $abc=1$. Prove that $a+b+c \\ge 3$.",
    "Find all functions $f:\\mathbb{R}\\to\\mathbb{R}$ such that $f(x+y)=f(x)+f(y)$ for all real $x,y$.",
    "Let $ABC$ be a triangle (A. is its apex). (a) Prove that $AB=AC$. (b) Show that $BC<2AB$.",
    "The figures 1 and 2 are written on a board. How many numbers can be made of them?",
    "In triangle $ABC$, the points $A, B, C$ lie on a circle with center $D$. What is $\\angle ADB$?",
]


def row(problem, **more):
    return ProblemRow(id="r", problem=problem, **more)


COMPLETE = {"solutions": ["It is so."], "reference": "It is so.", "answer": "7", "rubric": "[]"}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("problem", ORDINARY)
def test_ordinary_statements_pass_every_rule(name, problem):
    assert RULES[name](row(problem, **COMPLETE)) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("HasFigure", "Find the area shown in the figure."),
        ("HasFigure", "Find it. [asy] draw((0,0)--(1,1)); [/asy]"),
        ("HasFigure", "Find it. \\includegraphics{a.png}"),
        ("HasFigure", "Find it. ![](a.png)"),
        ("MultipleChoice", "How many? (A) 1 (B) 2 (C) 3 (D) 4 (E) 5"),
        ("MultipleChoice", "How many?\n$\\textbf{(A)}\\ 1 \\qquad \\textbf{(B)}\\ 2 \\qquad\\textbf{(C)}\\ 3$"),
        ("MultipleChoice", "Which of the following is a prime?"),
        ("HasLink", "Prove the claim at https://example.org/1."),
        ("Incomplete", "Prove that $x=1"),
        ("Incomplete", "Prove that $\\frac{1}{2$ holds."),
        ("Incomplete", "Prove that for all $x$ the"),
        ("AsksNothing", "Let $x$ be a real number."),
        ("SeveralProblems", "1. Prove it.\n2. Prove that.\n3. Prove this."),
        ("Garbled", "Prove the Cauchy\u2013Schwarz in\ufffdquality."),
        ("Garbled", "Soit un entier, montrer qu\u00e2\u20acil est pair."),
        ("NoSolution", "Prove it."),
        ("NoReference", "Prove it."),
        ("NoAnswer", "Prove it."),
        ("NoRubric", "Prove it."),
    ],
)
def test_a_rule_drops_what_it_names_and_says_why(name, problem):
    reason = RULES[name](row(problem))
    assert reason is not None and len(reason) > 5


@pytest.mark.parametrize(
    ("statement", "language"),
    [
        (ORDINARY[0], "en"),
        ("Soit $n$ un entier. Montrer que $n^2$ est pair si et seulement si $n$ est pair.", "fr"),
        ("Sei $n$ eine ganze Zahl. Zeige, dass $n^2$ genau dann gerade ist, wenn $n$ gerade ist.", "de"),
        ("Demuestre que para todos los enteros $n$ el número $n^2+n$ es par.", "es"),
        ("Докажите, что число $n^2+n$ чётно.", "ru"),
        ("证明 $n^2+n$ 是偶数。", "zh"),
        ("Prove $x=1$.", None),
    ],
)
def test_the_language_around_the_formulas_is_told(statement, language):
    assert language_of(statement) == language


def test_other_languages_are_dropped_and_short_statements_stay():
    rule = language_rule(["en", "fr"])
    assert rule(row(ORDINARY[0])) is None
    assert rule(row("Prove $x=1$.")) is None
    assert rule(row("Докажите, что число $n^2+n$ чётно.")) == "its language is ru"


def test_lengths_are_bounded_on_both_sides():
    rules = length_rules(10, 20)
    assert first_reason(row("x" * 9), rules) == ("TooShort", "9 characters, fewer than 10")
    assert first_reason(row("x" * 10), rules) is None
    assert first_reason(row("x" * 20), rules) is None
    assert first_reason(row("x" * 21), rules) == ("TooLong", "21 characters, more than 20")


def test_the_spec_can_name_every_rule_and_no_other():
    assert {str(rule) for rule in DropRule} == set(RULES)
