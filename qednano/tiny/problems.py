"""Divisibility problems in two unknowns: their text, their fold, and a generator without repetitions.

A problem fixes n = mk + r and x = ml + q for unknown integers k, l, and asks for a proof about E = a n^p + b x + c
modulo m. Everything that is asked follows from (p, m, a, r, b, q, c), so a problem is those seven integers and nothing
else.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from qednano.errors import DataError

FAMILIES = ("linear", "congruence", "quadratic")
FOLDS = ("train", "heldout")
MAX_DIFFICULTY = 10
HELDOUT_SHARE = 8  # one problem in eight is held out


@dataclass(frozen=True)
class Bounds:
    """The largest numbers that a difficulty allows."""

    modulus: int
    coefficient: int
    constant: int
    leading: int  # the largest coefficient of n^2


def bounds(difficulty: int) -> Bounds:
    """What difficulty 1..10 allows; each level contains the one below it."""
    if difficulty == 1:
        return Bounds(modulus=6, coefficient=5, constant=9, leading=1)
    if difficulty == 2:
        return Bounds(modulus=7, coefficient=8, constant=30, leading=1)
    over = difficulty - 2
    return Bounds(7 + 2 * over, 8 + 6 * over, 30 + 30 * over, 1 + over)


@dataclass(frozen=True)
class Problem:
    """n = mk + r, x = ml + q, E = a n^power + b x + c; asked: m | E, or E ≡ residue (mod m)."""

    power: int
    m: int
    a: int
    r: int
    b: int
    q: int
    c: int

    @cached_property
    def first_constant(self) -> int:
        """The constant of the term in n once n = mk + r is put in: a r or a r^2."""
        return self.a * self.r * (self.r if self.power == 2 else 1)

    @cached_property
    def total(self) -> int:
        """The constant term of E once n and x are substituted."""
        return self.first_constant + self.b * self.q + self.c

    @property
    def residue(self) -> int:
        return self.total % self.m

    @property
    def family(self) -> str:
        if self.power == 2:
            return "quadratic"
        return "congruence" if self.residue else "linear"

    @cached_property
    def difficulty(self) -> int:
        """The lowest level whose bounds hold this problem; problems beyond the last level count as the last."""
        for level in range(1, MAX_DIFFICULTY):
            if self._within(bounds(level)):
                return level
        return MAX_DIFFICULTY

    def _within(self, limit: Bounds) -> bool:
        first = limit.leading if self.power == 2 else limit.coefficient
        return self.m <= limit.modulus and self.a <= first and self.b <= limit.coefficient and self.c <= limit.constant

    @cached_property
    def first_term(self) -> str:
        """The term of E in n, as written: 3n, n^2 or 2n^2."""
        return ("" if self.a == 1 else str(self.a)) + ("n" if self.power == 1 else "n^2")

    @cached_property
    def goal(self) -> str:
        return f"E ≡ {self.residue} (mod {self.m})" if self.residue else f"{self.m} | E"

    @cached_property
    def text(self) -> str:
        return (
            f"n = {self.m}k + {self.r}, x = {self.m}l + {self.q}, "
            f"E = {self.first_term} + {self.b}x + {self.c}. Prove {self.goal}."
        )

    @cached_property
    def key(self) -> str:
        """Canonical: a linear problem and its mirror image (n and x exchanged) share one key, hence one fold."""
        terms = [(self.a, self.r), (self.b, self.q)]
        if self.power == 1:
            terms.sort()
        numbers = [self.power, self.m, *terms[0], *terms[1], self.c]
        return "tiny-divisibility:" + ",".join(map(str, numbers))

    @cached_property
    def id(self) -> str:
        return "td-" + hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @cached_property
    def fold(self) -> str:
        """train or heldout: a hash of the key decides, so no problem and no mirror image can be in both."""
        number = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big")
        return "train" if number % HELDOUT_SHARE else "heldout"


_NUMBER = "([1-9][0-9]{0,3})"
_TEXT = re.compile(
    rf"n = {_NUMBER}k \+ {_NUMBER}, x = {_NUMBER}l \+ {_NUMBER}, "
    rf"E = {_NUMBER}?n(\^2)? \+ {_NUMBER}x \+ {_NUMBER}\. "
    rf"Prove (?:{_NUMBER} \| E|E ≡ {_NUMBER} \(mod {_NUMBER}\))\."
)


def parse(text: str) -> Problem:
    """The problem that `text` states. Raises DataError when it isn't one, or when what it asks is false."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise DataError(f"not a tiny-divisibility problem: {text[:120]!r}")
    m, r, other, q, a, square, b, c = found.groups()[:8]
    problem = Problem(2 if square else 1, int(m), int(a or 1), int(r), int(b), int(q), int(c))
    if m != other or problem.text != text.strip():
        raise DataError(f"a tiny-divisibility problem that contradicts itself: {text[:120]!r}")
    return problem


def generate(
    seed: int,
    count: int,
    fold: str = "train",
    families: Sequence[str] = FAMILIES,
    min_difficulty: int = 1,
    max_difficulty: int = 2,
) -> Iterator[Problem]:
    """`count` distinct problems of one fold, the same ones for the same arguments, in constant memory.

    A family named twice in `families` is drawn twice as often; one that is used up leaves its share to the others. Each
    (family, difficulty) is a finite space, walked in the order of a keyed permutation: that is why nothing repeats and
    nothing need be remembered.
    Raises DataError for an unknown family or fold, and when the spaces hold fewer than `count` problems.
    """
    _check_arguments(fold, families, min_difficulty, max_difficulty)
    rng = random.Random(f"tiny-divisibility:{seed}:{fold}")
    levels = range(min_difficulty, max_difficulty + 1)
    walks = {(family, level): _walk(family, level, fold, seed) for family in sorted(set(families)) for level in levels}
    draws = [(family, level) for family in families for level in levels]
    made = 0
    while made < count:
        if not draws:
            raise DataError(
                f"{', '.join(sorted(set(families)))} at difficulty {min_difficulty} to {max_difficulty} has only "
                f"{made} problems in the {fold} fold, {count} were asked for: ask for fewer or raise difficulty.max"
            )
        drawn = draws[rng.randrange(len(draws))]
        problem = next(walks[drawn], None)
        if problem is None:
            draws = [other for other in draws if other != drawn]
            continue
        made += 1
        yield problem


def _check_arguments(fold: str, families: Sequence[str], low: int, high: int) -> None:
    if fold not in FOLDS:
        raise DataError(f"unknown fold {fold!r}: use one of {', '.join(FOLDS)}")
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise DataError(f"unknown families {unknown}: use some of {', '.join(FAMILIES)}")
    if not 1 <= low <= high <= MAX_DIFFICULTY:
        raise DataError(f"difficulty {low} to {high}: use 1 <= min <= max <= {MAX_DIFFICULTY}")


def _walk(family: str, difficulty: int, fold: str, seed: int) -> Iterator[Problem]:
    """Every problem of one family, difficulty and fold, once, in an order that `seed` decides."""
    limit = bounds(difficulty)
    quadratic = family == "quadratic"
    moduli, remainders = limit.modulus - 2, limit.modulus - 1
    leading = limit.leading if quadratic else limit.coefficient - 1
    sizes = (moduli, remainders, remainders, leading, limit.coefficient - 1, limit.constant)
    for index in _permutation(_product(sizes), f"{seed}:{family}:{difficulty}"):
        digits = []
        for size in sizes:
            index, digit = divmod(index, size)
            digits.append(digit)
        m, r, q = digits[0] + 3, digits[1] + 1, digits[2] + 1
        if r >= m or q >= m:
            continue
        first = digits[3] + (1 if quadratic else 2)
        problem = Problem(2 if quadratic else 1, m, first, r, digits[4] + 2, q, digits[5] + 1)
        asked_divisible = family != "congruence"
        if asked_divisible != (problem.residue == 0):
            continue
        if problem.difficulty == difficulty and problem.fold == fold:
            yield problem


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _permutation(size: int, key: str) -> Iterator[int]:
    """0..size-1 in a keyed pseudo-random order, in constant memory: a 4-round Feistel network with cycle walking."""
    half = max(1, (size.bit_length() + 1) // 2)
    mask = (1 << half) - 1
    digest = hashlib.sha256(key.encode()).digest()
    rounds = [int.from_bytes(digest[8 * i : 8 * i + 8], "big") | 1 for i in range(4)]
    for start in range(1 << (2 * half)):
        left, right = start >> half, start & mask
        for salt in rounds:
            mixed = ((right + 1) * salt) & 0xFFFFFFFFFFFFFFFF
            mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((mixed >> 32) & mask)
        index = (left << half) | right
        if index < size:
            yield index
