"""A benchmark's problem is recognised in other words, and its neighbours are let through."""

from __future__ import annotations

import pytest

from qednano.data.decontaminate import BenchmarkStatement, Detector, longest_run

INEQUALITY = (
    r"Let $a,b,c$ be positive reals with $abc=1$. Prove that $\frac{1}{a^3(b+c)}+\frac{1}{b^3(c+a)} \ge \frac{3}{2}$."
)
CYCLIC = (
    "Let $ABCD$ be a cyclic quadrilateral whose diagonals meet at $P$. The circumcircles of triangles $ABP$ and $CDP$ "
    "meet again at $Q$. Prove that the line $PQ$ bisects the segment joining the midpoints of $AB$ and $CD$."
)
PRIMES = "Find all primes $p$ and $q$ such that $p^q + 7 q^p = 2024$."
BENCHMARK = [BenchmarkStatement("bench", str(number), text) for number, text in enumerate([INEQUALITY, CYCLIC, PRIMES])]


@pytest.fixture(scope="module")
def detector():
    return Detector(BENCHMARK)


@pytest.mark.parametrize(
    ("row", "told", "rule"),
    [
        (INEQUALITY, "0", "exact"),
        ("(IMO 1995) Suppose x,y,z > 0 satisfy xyz = 1. Show 1/(x^3(y+z)) + 1/(y^3(z+x)) ≥ 3/2.", "0", "n-gram"),
        (
            "I heard this at a camp and could not do it, nor could my friends, who are better than I am at this: "
            + CYCLIC.replace("$P$", "$X$")
            .replace("$Q$", "$Y$")
            .replace("ABP", "ABX")
            .replace("CDP", "CDX")
            .replace("PQ", "XY")
            + " We tried inversion and complex numbers for an hour before giving up.",
            "1",
            "n-gram",
        ),
        (
            "The product of positive reals $x,y,z$ is $1$. Show that the sum of $1/(x^3(y+z))$ and $1/(y^3(z+x))$ "
            "is at least $3/2$.",
            "0",
            "fuzzy",
        ),
        ("Determine every pair of prime numbers $r, s$ satisfying $r^s + 7s^r = 2024$.", "2", "n-gram"),
        ("Find primes $p,q$ with $p^q$ plus $7q^p$ equal to $2024$; I tried all small cases.", "2", "n-gram"),
    ],
)
def test_a_problem_of_the_benchmark_is_found_in_other_words(detector, row, told, rule):
    hit = detector.match(row)
    assert hit is not None
    assert (hit.against.id, hit.rule) == (told, rule)
    assert 0 < hit.score <= 1


@pytest.mark.parametrize(
    "row",
    [
        "",
        "$",
        "Prove that the sum of two odd numbers is even.",
        "Find all primes $p$ and $q$ such that $p^q + 7 q^p = 2025$.",
        CYCLIC.replace("cyclic", "tangential"),
        "Let $ABCD$ be a cyclic quadrilateral whose diagonals meet at $P$. Prove that $PA \\cdot PC = PB \\cdot PD$.",
        "Let $a,b,c$ be positive reals with $abc=1$. Prove that $a+b+c \\ge 3$.",
    ],
)
def test_a_neighbour_of_the_benchmark_is_let_through(detector, row):
    assert detector.match(row) is None


def test_a_benchmark_without_statements_hits_nothing():
    assert Detector([]).match(INEQUALITY) is None


@pytest.mark.parametrize(
    ("one", "other", "length"), [("abcd", "xbcy", 2), ("", "a", 0), ("aa", "aaa", 2), ("ab", "ba", 1)]
)
def test_the_longest_run_is_contiguous(one, other, length):
    assert longest_run(list(one), list(other)) == length
