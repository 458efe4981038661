"""Which rows tell a benchmark's problem: in its words, in part, or reworded with other names of variables.

Statements are compared in their normal form (`qednano.data.form`). Candidates come from an inverted index of the
benchmark's shingles, so a row costs its own length and not the benchmark's. Three rules make a hit, each named in it:
*exact* (equal forms), *n-gram* (a long run of tokens in common) and *fuzzy* (most of the smaller statement is in the
other, with its numbers, and no contrasting word against it).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rapidfuzz.distance import LCSseq

from qednano.data.form import Form, contradict, statement_form

NGRAM = 13  # tokens in a row, as in Brown et al. 2020, appendix C; here of the normal form, without the frame
_CANDIDATES = 5  # statements of the benchmark that a row is compared with in full


@dataclass(frozen=True)
class Rules:
    """Least shares of the smaller statement that must be in the other one, from 0 to 1.

    fuzzy: by itself; with_numbers: when at least three telling numbers agree; run: covered by one n-gram.
    """

    fuzzy: float = 0.75
    with_numbers: float = 0.5
    run: float = 0.8


@dataclass(frozen=True)
class BenchmarkStatement:
    """One problem that must not be trained on: the benchmark's name, the problem's id there, and its text."""

    benchmark: str
    id: str
    text: str


@dataclass(frozen=True)
class Hit:
    """A row that tells a benchmark's problem: which, by what rule, and how much of it is there (0..1)."""

    against: BenchmarkStatement
    rule: str
    score: float


@dataclass
class Detector:
    """The statements of one or several benchmarks, ready to be compared with rows."""

    statements: Sequence[BenchmarkStatement]
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        self._forms = [statement_form(statement.text) for statement in self.statements]
        self._found_in: dict[int, list[int]] = {}
        for number, form in enumerate(self._forms):
            for shingle in form.shingles:
                self._found_in.setdefault(shingle, []).append(number)
        count = len(self._forms)
        self._weights = {shingle: math.log1p(count / len(holders)) for shingle, holders in self._found_in.items()}
        self._stranger = math.log1p(count)  # the weight of a shingle that no statement has
        self._totals = [sum(self._weights[shingle] for shingle in form.shingles) for form in self._forms]

    def match(self, statement: str) -> Hit | None:
        """The strongest hit of a statement; None for a clean one."""
        form = statement_form(statement)
        if not form.tokens:
            return None
        hits = (self._compare(form, number) for number in self._candidates(form))
        return max((hit for hit in hits if hit is not None), key=lambda hit: hit.score, default=None)

    def _candidates(self, form: Form) -> Iterable[int]:
        """The statements that share the most weight with a form, relative to the smaller of the two."""
        shared: dict[int, float] = {}
        known = 0.0
        for shingle in form.shingles:
            holders = self._found_in.get(shingle)
            if holders is None:
                known += self._stranger
                continue
            weight = self._weights[shingle]
            known += weight
            for number in holders:
                shared[number] = shared.get(number, 0.0) + weight
        best = sorted(shared, key=lambda number: -shared[number] / min(self._totals[number], known))
        return best[:_CANDIDATES]

    def _compare(self, form: Form, number: int) -> Hit | None:
        theirs, statement = self._forms[number], self.statements[number]
        if form.tokens == theirs.tokens:
            return Hit(statement, "exact", 1.0)
        if contradict(form.contrasts, theirs.contrasts):
            return None
        run = longest_run(form.tokens, theirs.tokens)
        if run >= NGRAM and run >= self.rules.run * len(theirs.tokens):
            return Hit(statement, "n-gram", run / len(theirs.tokens))
        smaller, larger = (theirs, form) if len(theirs.tokens) <= len(form.tokens) else (form, theirs)
        if 10 * len(form.tokens) < 7 * len(theirs.tokens) or not _numbers_agree(smaller, larger):
            return None
        score = self._share(smaller, larger)
        return Hit(statement, "fuzzy", score) if score >= self._needed(smaller, larger) else None

    def _share(self, smaller: Form, larger: Form) -> float:
        """How much of the smaller form is in the larger: by weighted shingles, or by its longest common subsequence."""
        weights = {shingle: self._weights.get(shingle, self._stranger) for shingle in smaller.shingles}
        shingles = sum(weight for shingle, weight in weights.items() if shingle in larger.shingles)
        in_order = float(LCSseq.similarity(smaller.tokens, larger.tokens)) / len(smaller.tokens)
        return max(
            shingles / sum(weights.values()), in_order if 2 * len(larger.tokens) <= 3 * len(smaller.tokens) else 0.0
        )

    def _needed(self, smaller: Form, larger: Form) -> float:
        needed = self.rules.with_numbers if _telling(smaller) >= 3 else self.rules.fuzzy
        # Much text holds many words by chance, and few tokens are soon shared.
        if len(larger.tokens) > 3 * len(smaller.tokens) or len(smaller.tokens) < 6:
            needed = max(needed, 0.85)
        return needed


def longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest contiguous run of tokens in both."""
    best = 0
    before = [0] * (len(other) + 1)
    for token in one:
        now = [0] * (len(other) + 1)
        for column, candidate in enumerate(other, start=1):
            if token == candidate:
                now[column] = before[column - 1] + 1
                if now[column] > best:
                    best = now[column]
        before = now
    return best


def _telling(form: Form) -> int:
    return sum(1 for item in form.content if item[0].isdigit() and item not in ("0", "1", "2"))


def _numbers_agree(smaller: Form, larger: Form) -> bool:
    """Whether the smaller statement's numbers are in the larger one; of ten, one may be missing."""
    ours = Counter(item for item in smaller.content if item[0].isdigit())
    missing = ours - Counter(item for item in larger.content if item[0].isdigit())
    return missing.total() * 10 <= ours.total()
