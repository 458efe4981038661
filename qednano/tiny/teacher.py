"""A teacher who knows the proof but is sometimes hasty (leaves steps out) or careless (one digit wrong)."""

from __future__ import annotations

import random

from qednano.errors import DataError
from qednano.tiny.problems import Problem

# The steps that a flawed proof leaves out, and how often each flaw comes among flawed proofs.
_LEFT_OUT = {
    "no first substitution": {0},
    "no second substitution": {1},
    "no sum": {2, 3},
    "no factoring": {4},
}
FLAWS = {
    "no first substitution": 2,
    "no second substitution": 4,
    "no sum": 1,
    "no factoring": 4,
    "wrong digit": 1,
}


def write(problem: Problem, rng: random.Random, flawed_percent: int = 0) -> str:
    """A proof of `problem`; with probability flawed_percent/100 it has one flaw, drawn by the weights of FLAWS."""
    if rng.randrange(100) >= flawed_percent:
        return "\n".join(steps(problem))
    return write_flawed(problem, rng.choices(list(FLAWS), list(FLAWS.values()))[0], rng)


def write_flawed(problem: Problem, flaw: str, rng: random.Random) -> str:
    """A proof of `problem` with exactly the flaw named. Raises DataError for a name that FLAWS lacks."""
    if flaw not in FLAWS:
        raise DataError(f"unknown flaw {flaw!r}: use one of {', '.join(FLAWS)}")
    written = steps(problem)
    if flaw == "wrong digit":
        return "\n".join([_with_wrong_digit("\n".join(written[:-1]), rng), written[-1]])
    return "\n".join(step for number, step in enumerate(written) if number not in _LEFT_OUT[flaw])


def steps(problem: Problem) -> list[str]:
    """The six lines of the complete proof."""
    m, a, r, b, q, c = problem.m, problem.a, problem.r, problem.b, problem.q, problem.c
    first, second = problem.first_constant, b * q
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
        f"{first} + {second} = {first + second}",
        f"{first + second} + {c} = {problem.total}",
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
