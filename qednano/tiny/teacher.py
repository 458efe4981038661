"""A teacher who knows the proof but is sometimes hasty (leaves steps out) or careless (one digit wrong)."""

from __future__ import annotations

import random

from qednano.errors import DataError
from qednano.tiny.problems import Problem

# What a flawed proof lacks, and how often among flawed proofs; scores: see `tests/tiny/test_teacher.py`.
FLAWS = {
    "no partial sum": 3,  # 6 + 4 + 5 = 15 at once
    "no sum": 2,  # the whole line left out
    "no second substitution": 2,
    "only the first step": 1,  # substitutes n, then claims the factored form
    "wrong digit": 4,
}


def write(problem: Problem, rng: random.Random, flawed_percent: int = 0) -> str:
    """A proof of `problem`; with probability flawed_percent/100 it has one flaw, drawn by the weights of FLAWS."""
    if rng.randrange(100) >= flawed_percent:
        return "\n".join(_steps(problem))
    return write_flawed(problem, rng.choices(list(FLAWS), list(FLAWS.values()))[0], rng)


def write_flawed(problem: Problem, flaw: str, rng: random.Random) -> str:
    """A proof of `problem` with exactly the flaw named. Raises DataError for a name that FLAWS lacks."""
    first, second, added, factored, conclusion = _steps(problem)
    if flaw == "no partial sum":
        start, _, total = added.split(" = ")
        return "\n".join([first, second, f"{start} = {total}", factored, conclusion])
    if flaw == "no sum":
        return "\n".join([first, second, factored, conclusion])
    if flaw == "no second substitution":
        return "\n".join([first, added, factored, conclusion])
    if flaw == "only the first step":
        return "\n".join([first, factored, conclusion])
    if flaw == "wrong digit":
        return "\n".join([_with_wrong_digit("\n".join([first, second, added, factored]), rng), conclusion])
    raise DataError(f"unknown flaw {flaw!r}: use one of {', '.join(FLAWS)}")


def _steps(problem: Problem) -> list[str]:
    """The five lines of the perfect proof."""
    m, a, r, b, q, c = problem.m, problem.a, problem.r, problem.b, problem.q, problem.c
    first, second = a * r**problem.power, b * q
    if problem.power == 1:
        expanded = f"{a * m}k + {first}"
        inner = f"{a}k"
    else:
        expanded = f"{a * m * m}k^2 + {2 * a * m * r}k + {first}"
        inner = f"{a * m}k^2 + {2 * a * r}k"
    tail = f" + {problem.residue}" if problem.residue else ""
    return [
        f"{problem.first_term} = {expanded}",
        f"{b}x = {b * m}l + {second}",
        f"{first} + {second} + {c} = {first + second} + {c} = {problem.total}",
        f"E = {m}({inner} + {b}l + {problem.total // m}){tail}",
        f"So {problem.goal}.",
    ]


def _with_wrong_digit(text: str, rng: random.Random) -> str:
    """`text` with one digit of one number changed; powers and leading digits that would turn 0 are left alone."""
    places = [i for i, character in enumerate(text) if character.isdigit() and (i == 0 or text[i - 1] != "^")]
    place = rng.choice(places)
    leading = place == 0 or not text[place - 1].isdigit()
    others = [digit for digit in ("123456789" if leading else "0123456789") if digit != text[place]]
    return text[:place] + rng.choice(others) + text[place + 1 :]
