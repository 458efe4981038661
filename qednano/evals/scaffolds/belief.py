"""What votes say: how likely each proof is right, how good verifiers are, and how hard each problem is. Pure.

A proof is right or wrong; a right one gets a vote with chance s, a wrong one with chance f. Each problem has a rate at
which a fresh proof of it is right; the rates of a cohort follow a distribution on a grid. A refined proof of a right
one stays right with chance `keep`; that of a wrong one becomes right with the odds of a fresh one times `mend`. So
the proofs of a problem are a forest, on which beliefs are exact (sum-product, Pearl 1988). s, f, keep, mend and the
distribution are learned from all votes of the cohort by expectation maximisation (Dempster, Laird and Rubin 1977;
raters without a gold standard: Dawid and Skene 1979; a free distribution of rates: Laird 1978), with the first
guesses as pseudo-counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
RATES: Grid = np.array([0.0005, 0.01, 0.03, 0.07, 0.13, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98])
_VOTE_WEIGHT = 12.0  # votes that the first guess of s and f is worth
_PROBLEM_WEIGHT = 3.0  # problems that the first guess of the distribution is worth
_REFINED_WEIGHT = 6.0  # refined proofs that the first guesses of keep and mend are worth
_ROUNDS = 2  # from what was known before
_EDGE = 1e-4


@dataclass(frozen=True)
class Verifier:
    """How often a right and a wrong proof get a vote; the first is the larger."""

    if_right: float
    if_wrong: float

    def after(self, belief: float, passed: bool) -> float:
        """Bayes' rule for one vote."""
        right = self.if_right if passed else 1 - self.if_right
        wrong = self.if_wrong if passed else 1 - self.if_wrong
        return belief * right / (belief * right + (1 - belief) * wrong)


@dataclass
class Proved:
    """A proof's votes: `passed` of `votes`; `source`: the proof that it refines; `belief`: how likely it is right."""

    source: int | None = None
    passed: int = 0
    votes: int = 0
    belief: float = 0.5


@dataclass
class Progress:
    """One problem of a cohort: its proofs, and what they cost so far in tokens, by kind of call.

    `rate`: how likely a fresh proof is right, `mended`: the same for a refined proof of a wrong one; set with the
    beliefs.
    """

    key: str
    proofs: list[Proved] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    rate: float = 0.5
    mended: float = 0.5

    def count(self, kind: str, tokens: int) -> None:
        """One call of a kind."""
        self.tokens[kind] = self.tokens.get(kind, 0) + tokens
        self.calls[kind] = self.calls.get(kind, 0) + 1

    @property
    def best(self) -> float:
        """The highest belief in one of its proofs; 0 without any."""
        return max((proof.belief for proof in self.proofs), default=0.0)


@dataclass(frozen=True)
class Knowledge:
    """What a cohort has taught. `shares[i]`: the share of problems whose rate is RATES[i]."""

    verifier: Verifier
    shares: Grid
    keep: float
    mend: float

    @property
    def mended(self) -> Grid:
        """For each of RATES: how likely a refined proof of a wrong one is right."""
        odds = self.mend * RATES / (1 - RATES)
        rates: Grid = odds / (1 + odds)
        return rates


@dataclass
class Counts:
    """Expected counts of one problem: right and wrong proofs' votes, and what refining did."""

    weights: Grid
    passed: list[float]
    votes: list[float]
    kept: float = 0.0
    of_right: float = 0.0
    mended: float = 0.0
    of_wrong: float = 0.0
    fresh: float = 0.0  # expected among of_wrong, had they been written afresh


def first_guess(if_right: float, if_wrong: float, rate: float) -> Knowledge:
    """Before any vote: rates spread widely around `rate`, half of them as of a Beta(rate, 1 - rate)."""
    width = np.gradient(RATES)
    wide = RATES ** (rate - 1) * (1 - RATES) ** (-rate) * width
    near = np.exp(-(((RATES - rate) / 0.2) ** 2)) * width
    shares = 0.5 * wide / wide.sum() + 0.5 * near / near.sum()
    return Knowledge(Verifier(if_right, if_wrong), shares, keep=0.9, mend=1.2)


def believe(progress: Progress, known: Knowledge) -> Counts:
    """Set beliefs and rates of one problem from its votes; returns what the votes are expected to count for."""
    s, f, keep, mended = known.verifier.if_right, known.verifier.if_wrong, known.keep, known.mended
    proofs = progress.proofs
    up = [
        (
            np.full_like(RATES, s**proof.passed * (1 - s) ** (proof.votes - proof.passed)),
            np.full_like(RATES, f**proof.passed * (1 - f) ** (proof.votes - proof.passed)),
        )
        for proof in proofs
    ]
    told: list[tuple[Grid, Grid]] = [(RATES, RATES)] * len(proofs)
    logs = np.log(known.shares)
    for number in range(len(proofs) - 1, -1, -1):  # a source stands before those that refine it
        source, (right, wrong) = proofs[number].source, up[number]
        if source is not None:
            if_right, if_wrong = keep * right + (1 - keep) * wrong, mended * right + (1 - mended) * wrong
            most = np.maximum(if_right, if_wrong)  # many messages multiply: without it they vanish
            logs += np.log(most)
            told[number] = if_right / most, if_wrong / most
            up[source] = up[source][0] * told[number][0], up[source][1] * told[number][1]
    for proof, (right, wrong) in zip(proofs, up, strict=True):
        if proof.source is None:
            logs += np.log(RATES * right + (1 - RATES) * wrong)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    counts = Counts(weights, [0.0, 0.0], [0.0, 0.0])
    above: list[tuple[Grid, Grid]] = []
    for number, proof in enumerate(proofs):
        right, wrong = up[number]
        if proof.source is None:
            prior, against = RATES, 1 - RATES
        else:
            source_right = above[proof.source][0] * up[proof.source][0] / told[number][0]
            source_wrong = above[proof.source][1] * up[proof.source][1] / told[number][1]
            prior = source_right * keep + source_wrong * mended
            against = source_right * (1 - keep) + source_wrong * (1 - mended)
            whole = prior * right + against * wrong
            kept, mends = source_right * keep * right / whole, source_wrong * mended * right / whole
            of_right = kept + source_right * (1 - keep) * wrong / whole
            of_wrong = mends + source_wrong * (1 - mended) * wrong / whole
            counts.kept += float(weights @ kept)
            counts.of_right += float(weights @ of_right)
            counts.mended += float(weights @ mends)
            counts.of_wrong += float(weights @ of_wrong)
            counts.fresh += float(weights @ (RATES * of_wrong))
            scale = prior + against
            prior, against = prior / scale, against / scale
        above.append((prior, against))
        proof.belief = _clip(float(weights @ (prior * right / (prior * right + against * wrong))))
        for side, share in ((0, 1 - proof.belief), (1, proof.belief)):
            counts.passed[side] += share * proof.passed
            counts.votes[side] += share * proof.votes
    progress.rate, progress.mended = _clip(float(weights @ RATES)), _clip(float(weights @ mended))
    return counts


def learn(cohort: Sequence[Progress], first: Knowledge, before: Knowledge) -> Knowledge:
    """What all votes of a cohort teach, in the order given, beginning at what was known `before`."""
    known = before
    for _ in range(_ROUNDS):
        known = _maximise([believe(progress, known) for progress in cohort], first)
    return known


def _maximise(counts: Sequence[Counts], first: Knowledge) -> Knowledge:
    guess = first.verifier
    passed = [
        _VOTE_WEIGHT * start + sum(item.passed[side] for item in counts)
        for side, start in enumerate((guess.if_wrong, guess.if_right))
    ]
    votes = [_VOTE_WEIGHT + sum(item.votes[side] for item in counts) for side in (0, 1)]
    if_right = _clip(passed[1] / votes[1])
    if_wrong = _clip(min(passed[0] / votes[0], if_right - 0.02))
    shares = _PROBLEM_WEIGHT * first.shares + sum(item.weights for item in counts)
    kept, of_right = sum(item.kept for item in counts), sum(item.of_right for item in counts)
    keep = (_REFINED_WEIGHT * first.keep + kept) / (_REFINED_WEIGHT + of_right)
    mend = _mend(
        sum(item.mended for item in counts),
        sum(item.of_wrong for item in counts),
        sum(item.fresh for item in counts),
        first.mend,
    )
    return Knowledge(Verifier(if_right, if_wrong), shares / shares.sum(), min(0.99, keep), mend)


def _mend(mended: float, of_wrong: float, fresh: float, guess: float) -> float:
    """Odds of mending over those of fresh proofs on the same problems, kept between 1/8 and 8."""
    if of_wrong <= 0:
        return guess
    rate = _clip(fresh / of_wrong)
    odds = guess * rate / (1 - rate)
    seen = _clip((mended + _REFINED_WEIGHT * odds / (1 + odds)) / (of_wrong + _REFINED_WEIGHT))
    return min(8.0, max(0.125, seen / (1 - seen) * (1 - rate) / rate))


def _clip(share: float) -> float:
    return min(1 - _EDGE, max(_EDGE, share))
