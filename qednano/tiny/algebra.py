"""Exact polynomials in the unknowns k and l, and a reader for the expressions a proof may write.

Sums, products by juxtaposition, `*` or `·`, brackets and powers up to 2: no minus, no division, because no proof
of this task needs them. Everything that could make reading expensive is bounded, so hostile text costs no more than
honest text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Polynomial = dict[tuple[int, int], int]  # (power of k, power of l) -> coefficient, never 0

MAX_DIGITS = 9
MAX_DEPTH = 4
MAX_SYMBOLS = 80  # in one expression
MAX_DEGREE = 4

_SYMBOL = re.compile(r"[0-9]+|[nxklE+*·^()]")
_ONE = (0, 0)


class Unreadable(ValueError):
    """The text is not an expression of this task."""


def constant(value: int) -> Polynomial:
    return {_ONE: value} if value else {}


def add(left: Polynomial, right: Polynomial) -> Polynomial:
    total = dict(left)
    for powers, coefficient in right.items():
        total[powers] = total.get(powers, 0) + coefficient
    return {powers: coefficient for powers, coefficient in total.items() if coefficient}


def multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for (left_k, left_l), first in left.items():
        for (right_k, right_l), second in right.items():
            powers = (left_k + right_k, left_l + right_l)
            if sum(powers) > MAX_DEGREE:
                raise Unreadable("a degree above 4")
            total[powers] = total.get(powers, 0) + first * second
    return {powers: coefficient for powers, coefficient in total.items() if coefficient}


@dataclass(frozen=True)
class Expression:
    """One side of an equation: its symbols without spaces, and its value as a polynomial in k and l."""

    symbols: tuple[str, ...]
    value: Polynomial

    @property
    def compact(self) -> str:
        return "".join(self.symbols)

    def integers(self) -> list[int] | None:
        """The addends, sorted, when this is a sum of plain integers; else None."""
        numbers, signs = self.symbols[::2], self.symbols[1::2]
        if any(sign != "+" for sign in signs) or not all(number.isdigit() for number in numbers):
            return None
        return sorted(map(int, numbers))

    def is_expanded(self) -> bool:
        """True for a sum of monomials in k and l, each power once: nothing left to multiply out or to collect."""
        return is_expanded(self.symbols)


def is_expanded(symbols: tuple[str, ...]) -> bool:
    if any(symbol in "()nxE*·" for symbol in symbols):
        return False
    powers = []
    for monomial in "".join(symbols).split("+"):
        found = re.fullmatch(r"[0-9]*((?:k|k\^2)?(?:l|l\^2)?)", monomial)
        if found is None or not monomial:
            return False
        powers.append(found.group(1))
    return len(powers) == len(set(powers))


def read(text: str, names: Mapping[str, Polynomial]) -> Expression:
    """Read one expression; `names` gives what n, x, k, l and E stand for. Raises Unreadable."""
    stripped = text.replace(" ", "")
    symbols = tuple(_SYMBOL.findall(stripped))
    if len("".join(symbols)) != len(stripped):
        raise Unreadable("a character that isn't part of an expression")
    if not symbols or len(symbols) > MAX_SYMBOLS:
        raise Unreadable("an empty or overlong expression")
    reader = _Reader(symbols, names)
    value = reader.sum(0)
    if reader.position != len(symbols):
        raise Unreadable("brackets or signs out of place")
    return Expression(symbols, value)


class _Reader:
    """Recursive descent over the symbols; depth, degree and digits are bounded."""

    def __init__(self, symbols: tuple[str, ...], names: Mapping[str, Polynomial]) -> None:
        self.symbols = symbols
        self.names = names
        self.position = 0

    def peek(self) -> str:
        return self.symbols[self.position] if self.position < len(self.symbols) else ""

    def sum(self, depth: int) -> Polynomial:
        value = self.product(depth)
        while self.peek() == "+":
            self.position += 1
            value = add(value, self.product(depth))
        return value

    def product(self, depth: int) -> Polynomial:
        value = self.power(depth)
        while (symbol := self.peek()) and symbol not in "+)^":
            if symbol in "*·":
                self.position += 1
            elif symbol.isdigit():
                raise Unreadable("a number after a factor")
            value = multiply(value, self.power(depth))
        return value

    def power(self, depth: int) -> Polynomial:
        value = self.atom(depth)
        if self.peek() != "^":
            return value
        self.position += 2
        if self.symbols[self.position - 1 : self.position] != ("2",):
            raise Unreadable("a power other than 2")
        return multiply(value, value)

    def atom(self, depth: int) -> Polynomial:
        symbol = self.peek()
        self.position += 1
        if symbol.isdigit():
            if len(symbol) > MAX_DIGITS:
                raise Unreadable(f"a number of {len(symbol)} digits")
            return constant(int(symbol))
        if symbol in self.names:
            return self.names[symbol]
        if symbol != "(" or depth >= MAX_DEPTH:
            raise Unreadable("an unknown or missing term")
        value = self.sum(depth + 1)
        if self.peek() != ")":
            raise Unreadable("a bracket that isn't closed")
        self.position += 1
        return value
