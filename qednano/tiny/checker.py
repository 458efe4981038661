"""Scores a written proof 0..7 by a fixed marking scheme; exact, deterministic, needs only the two texts.

Marking scheme (points): substitute n (1), substitute x (1), add two remainders (1), add the constant (1), factor (2),
conclude (1). Then, in this order:
- a line that is false or can't be read caps the score at 2;
- factoring before the four steps it rests on are written caps the score at 3;
- a true line said twice, or anything after the conclusion, costs 1 each;
- a line that denies the claim, or concludes another residue for the same modulus, makes the score 0, whatever else
  is written.
A conclusion earns its point only after the factored form. True lines that earn nothing are free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from qednano.tiny import algebra
from qednano.tiny.algebra import Expression, Polynomial, Unreadable
from qednano.tiny.problems import Problem, parse

FULL_SCORE = 7
WRONG_LINE_CAP = 2
GAP_CAP = 3
MAX_CHARACTERS = 4000
MAX_LINES = 40
MAX_SIDES = 8

SCHEME = (
    ("substitute n", 1),
    ("substitute x", 1),
    ("add remainders", 1),
    ("add constant", 1),
    ("factor", 2),
    ("conclude", 1),
)
GROUNDS = tuple(name for name, _ in SCHEME[:4])  # what must stand before the factoring

_CONCLUSION = re.compile(
    r"(?:So |Hence |Therefore )?(?:([0-9]{1,9}) \| E|E ≡ ([0-9]{1,9}) \(mod ([0-9]{1,9})\))\.?", re.IGNORECASE
)
_DENIAL = re.compile(r"∤|≢|≠|\b(?:not|no|never|doesn't|isn't|cannot|can't|false|wrong)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """One row of the marking scheme: points it is worth, points earned, and the line (from 1) that earned them."""

    name: str
    points: int
    earned: int
    line: int | None


@dataclass(frozen=True)
class CheckResult:
    """score: 0..7 after caps and deductions; error: the first thing wrong, in words, None for a proof without fault."""

    score: int
    checkpoints: list[Checkpoint]
    error: str | None
    deductions: list[str] = field(default_factory=list)


def check(problem_text: str, proof_text: str) -> CheckResult:
    """Score the proof of the problem. Raises DataError when `problem_text` is not a problem of this task."""
    marking = _Marking(_reading(problem_text))
    if len(proof_text) > MAX_CHARACTERS:
        return marking.refuse(f"the proof is longer than {MAX_CHARACTERS} characters")
    lines = proof_text.strip().split("\n")
    if len(lines) > MAX_LINES:
        return marking.refuse(f"the proof has more than {MAX_LINES} lines")
    if lines == [""]:
        return marking.refuse("the proof is empty")
    for number, line in enumerate(lines, start=1):
        marking.read(number, line.strip(" "))
    return marking.result()


@dataclass(frozen=True)
class _Reading:
    """What a proof of this problem is held against, worked out once."""

    problem: Problem
    names: dict[str, Polynomial]
    first: int  # constant term of the substituted term in n
    second: int  # and of the term in x

    @property
    def second_term(self) -> str:
        return f"{self.problem.b}x"


@lru_cache(maxsize=4096)
def _reading(problem_text: str) -> _Reading:
    problem = parse(problem_text)
    names: dict[str, Polynomial] = {"k": {(1, 0): 1}, "l": {(0, 1): 1}}
    names["n"] = algebra.read(f"{problem.m}k + {problem.r}", names).value
    names["x"] = algebra.read(f"{problem.m}l + {problem.q}", names).value
    expression = f"{problem.first_term} + {problem.b}x + {problem.c}"
    names["E"] = algebra.read(expression, names).value
    return _Reading(problem, names, problem.first_constant, problem.b * problem.q)


class _Marking:
    """The state of marking one proof, line after line."""

    def __init__(self, reading: _Reading) -> None:
        self.reading = reading
        self.earned: dict[str, int] = {}  # checkpoint -> line
        self.faults: list[str] = []
        self.wrong = False
        self.gap = False
        self.contradicted = False
        self.lost = 0
        self.seen: set[str] = set()
        self.concluded = False

    def read(self, number: int, line: str) -> None:
        """Mark one line of the proof."""
        if _DENIAL.search(line):
            self.contradicted = True
            self.faults.append(f"line {number} denies something: {line[:80]!r}")
            return
        conclusion = _CONCLUSION.fullmatch(line)
        plain = line.replace(" ", "").rstrip(".")
        if self.concluded or plain in self.seen:
            self.lost += 1
            self.faults.append(f"line {number} adds nothing: {line[:80]!r}")
        self.seen.add(plain)
        if conclusion:
            self._conclude(number, line, conclusion)
        else:
            self._equation(number, line)

    def _conclude(self, number: int, line: str, found: re.Match[str]) -> None:
        problem = self.reading.problem
        modulus, residue = int(found[1] or found[3]), int(found[2] or 0)
        if modulus == problem.m and residue % modulus != problem.residue:
            self.contradicted = True
            self.faults.append(f"line {number} concludes something false: {line[:80]!r}")
        elif modulus != problem.m or residue != problem.residue:
            self.wrong = True
            self.faults.append(f"line {number} concludes what was not asked: {line[:80]!r}")
        else:
            self.concluded = True
            if "factor" in self.earned:
                self._earn("conclude", number)

    def _equation(self, number: int, line: str) -> None:
        try:
            sides = self._sides(line)
        except Unreadable as why:
            self.wrong = True
            self.faults.append(f"line {number} can't be read ({why}): {line[:80]!r}")
            return
        if any(side.value != sides[0].value for side in sides[1:]):
            self.wrong = True
            self.faults.append(f"line {number} is false: {line[:80]!r}")
            return
        for name, holds in zip(GROUNDS, self._grounds(sides), strict=True):
            if holds:
                self._earn(name, number)
        if any(self._is_factored(side) for side in sides):
            missing = [name for name in GROUNDS if name not in self.earned]
            if missing and "factor" not in self.earned:
                self.gap = True
                self.faults.append(f"line {number} factors without: {', '.join(missing)}")
            self._earn("factor", number)

    def _sides(self, line: str) -> list[Expression]:
        texts = line.removesuffix(".").split("=")
        if not 2 <= len(texts) <= MAX_SIDES:
            raise Unreadable("not an equation or a conclusion")
        return [algebra.read(text, self.reading.names) for text in texts]

    def _grounds(self, sides: list[Expression]) -> tuple[bool, bool, bool, bool]:
        """Which of the four GROUNDS this true line establishes."""
        reading, c = self.reading, self.reading.problem.c
        compact = [side.compact for side in sides]
        sums = [numbers for side in sides if (numbers := side.integers()) is not None]
        first, second = reading.first, reading.second
        partial = first + second
        added = _follows(sums, (sorted([first, second]), [partial])) or _follows(
            sums, (sorted([first, second, c]), sorted([partial, c]))
        )
        total = _follows(sums, (sorted([partial, c]), [partial + c]))
        expanded = any(side.is_expanded() for side in sides)
        return (
            reading.problem.first_term in compact and expanded,
            reading.second_term in compact and expanded,
            added,
            total,
        )

    def _is_factored(self, side: Expression) -> bool:
        """E written as m(...) with the bracket expanded, and + residue where the problem has one."""
        problem, symbols = self.reading.problem, side.symbols
        if symbols[:2] != (str(problem.m), "(") or side.value != self.reading.names["E"]:
            return False
        tail = (")", "+", str(problem.residue)) if problem.residue else (")",)
        return symbols[-len(tail) :] == tail and algebra.is_expanded(symbols[2 : -len(tail)])

    def _earn(self, name: str, line: int) -> None:
        self.earned.setdefault(name, line)

    def refuse(self, why: str) -> CheckResult:
        """The result for a proof that is not read at all."""
        return CheckResult(0, [Checkpoint(name, points, 0, None) for name, points in SCHEME], why)

    def result(self) -> CheckResult:
        checkpoints = [
            Checkpoint(name, points, points if name in self.earned else 0, self.earned.get(name))
            for name, points in SCHEME
        ]
        score = sum(checkpoint.earned for checkpoint in checkpoints)
        deductions = []
        if self.wrong:
            deductions.append(f"a wrong line: at most {WRONG_LINE_CAP}")
            score = min(score, WRONG_LINE_CAP)
        if self.gap:
            deductions.append(f"steps skipped before the factoring: at most {GAP_CAP}")
            score = min(score, GAP_CAP)
        if self.lost:
            deductions.append(f"lines that add nothing: {-self.lost}")
            score = max(0, score - self.lost)
        if self.contradicted:
            deductions.append("the claim is contradicted: 0")
            score = 0
        error = self.faults[0] if self.faults else None
        if error is None and score < FULL_SCORE:
            error = "missing: " + ", ".join(row.name for row in checkpoints if not row.earned)
        return CheckResult(score, checkpoints, error, deductions)


def _follows(sums: list[list[int]], step: tuple[list[int], list[int]]) -> bool:
    """True when the chain writes step[0] and, after it, step[1]."""
    before, after = step
    return before in sums and after in sums[sums.index(before) + 1 :]
