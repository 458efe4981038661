"""What votes say: how likely each proof is right, how good verifiers are, and how hard each problem is. Pure.

A proof is right or wrong; a right one gets a vote with chance s, a wrong one with chance f, as means over proofs: a
proof's own chance is from a Beta distribution about them, since a wrong proof that has fooled a verifier once is likely
to fool it again (beta-binomial votes, Williams 1975). Each problem has a rate at which a fresh proof of it is right;
the rates of a cohort follow a distribution on a grid. A refined proof of a right one stays right with chance `keep`;
that of a wrong one becomes right with the odds of a fresh one times `mend`. So the proofs of a problem are a forest, on
which beliefs are exact (sum-product, Pearl 1988). s, f, how alike votes on one proof are, keep, mend and the
distribution are learned from all votes of the cohort by expectation maximisation (Dempster, Laird and Rubin 1977;
raters without a gold standard: Dawid and Skene 1979; a free distribution of rates: Laird 1978), with the first guesses
as pseudo-counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
RATES: Grid = np.array([0.0005, 0.003, 0.01, 0.03, 0.07, 0.13, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98])
_VOTE_WEIGHT = 12.0  # votes that the first guess of s and f is worth
_MEANS: Grid = np.linspace(0.01, 0.99, 50)  # candidates for s and f
_ALIKE: Grid = np.linspace(0.0, 0.5, 26)  # candidates for the correlation of votes; on a coarser grid EM stands still
_ALIKE_WEIGHT = 5.0  # exponent of (1 - alike), their prior: a few votes are not taken for alike
_PROBLEM_WEIGHT = 12.0  # problems that the first guess of the distribution is worth
_SPREAD = 0.3  # alpha + beta of the first guess of the distribution: 40 % alone and 57 % with VerifyRefine (QED-Nano)
_REFINED_WEIGHT = 6.0  # refined proofs that the first guess of keep is worth
_MENDS: Grid = np.exp(np.linspace(-2.1, 2.1, 43))  # candidates for mend: from an eighth to eight
_MEND_SPREAD = 0.7  # standard deviation of its logarithm about the first guess: a factor of two
_ROUNDS = 2  # from what was known before
_SHARE_ROUNDS = 8  # of the distribution alone, which is slow to move and cheap to go on with
_EDGE = 1e-4


@dataclass(frozen=True)
class Verifier:
    """How often a right and a wrong proof get a vote, as means; the first is the larger.

    `alike`: correlation of the votes on one proof, given whether it is right. A proof's own chance of a vote is from
    Beta(mean * w, (1 - mean) * w) with w = 1 / alike - 1.
    """

    if_right: float
    if_wrong: float
    alike: float = 0.0

    def next_vote(self, passed: int, votes: int) -> tuple[float, float]:
        """The chance that one more vote is for the proof, if it is right and if it is wrong, after so many."""
        share = self.alike / (1 - self.alike + self.alike * votes)
        own = 1 - share * votes
        return own * self.if_right + share * passed, own * self.if_wrong + share * passed

    def likelihood(self, passed: int, votes: int) -> tuple[float, float]:
        """Of these votes in one order, if the proof is right and if it is wrong."""
        right = wrong = 1.0
        for number in range(votes):
            s, f = self.next_vote(min(number, passed), number)
            right, wrong = (right * s, wrong * f) if number < passed else (right * (1 - s), wrong * (1 - f))
        return right, wrong

    def after(self, belief: float, passed: int, votes: int, vote: bool) -> float:
        """Bayes' rule for one more vote on a proof that has had so many."""
        right, wrong = self.next_vote(passed, votes)
        if not vote:
            right, wrong = 1 - right, 1 - wrong
        return belief * right / (belief * right + (1 - belief) * wrong)


@dataclass
class Proved:
    """A proof's votes: `passed` of `votes`; `source`: the proof that it refines; `belief`: how likely it is right.

    `line` is the number of the fresh proof that it goes back to.
    """

    source: int | None = None
    line: int = 0
    passed: int = 0
    votes: int = 0
    belief: float = 0.5


@dataclass
class Progress:
    """One problem of a cohort: its proofs, and what they cost so far in tokens, by kind of call.

    `rate`: how likely a fresh proof is right if none of those that are there is, `mended`: the same for a refined
    proof; set with the beliefs.
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

    def add(self, source: int | None) -> None:
        """One more proof, fresh or a refined `source`."""
        self.proofs.append(Proved(source, len(self.proofs) if source is None else self.proofs[source].line))

    @property
    def likeliest(self) -> int:
        """The number of the proof with the highest belief, of equal ones the first."""
        return max(range(len(self.proofs)), key=lambda number: self.proofs[number].belief)

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
        return _mended(np.array([self.mend]))[0]

    def failing(self, most: int) -> Failing:
        """Rates after 0 to `most` proofs that were wrong, of the kind that is likelier right: fresh or refined."""
        weights = self.shares * (1 - np.maximum(RATES, self.mended)) ** np.arange(most + 1)[:, None]
        weights /= weights.sum(axis=1, keepdims=True)
        return Failing(weights @ RATES, weights @ self.mended)


@dataclass(frozen=True)
class Failing:
    """By the number of proofs of a problem that were wrong: how likely a fresh one, and a refined one, is right."""

    rates: Grid
    mended: Grid


@dataclass
class Counts:
    """Expected counts of one problem: votes by how likely the proof is right, and what refining did.

    `likelihood`: of all votes, for each of RATES, up to a factor; `mended` of `of_wrong`: for each of RATES, too.
    """

    likelihood: Grid
    votes: list[tuple[int, int, float]]  # passed, of how many, belief
    kept: float = 0.0
    of_right: float = 0.0
    mended: Grid = field(default_factory=lambda: np.zeros_like(RATES))
    of_wrong: Grid = field(default_factory=lambda: np.zeros_like(RATES))


def first_guess(if_right: float, if_wrong: float, rate: float) -> Knowledge:
    """Before any vote: a Beta distribution of rates about `rate`, of which most mass is near 0 and near 1.

    That is how a benchmark looks to a model: it solves some problems nearly always and others nearly never.
    """
    shares = beta_shares(_SPREAD * rate, _SPREAD * (1 - rate))
    return Knowledge(Verifier(if_right, if_wrong), shares, keep=0.9, mend=1.2)


def beta_shares(alpha: float, beta: float) -> Grid:
    """How much of a Beta distribution is nearest to each of RATES, by log-odds."""
    logits = np.linspace(-16.0, 16.0, 3201)
    near = 1 / (1 + np.exp(-logits))
    mass = near**alpha * (1 - near) ** beta  # Beta's density over the logit
    middles = np.log(RATES / (1 - RATES))
    cells = np.searchsorted((middles[1:] + middles[:-1]) / 2, logits)
    shares: Grid = np.bincount(cells, mass, len(RATES))
    return shares / shares.sum()


def believe(progress: Progress, known: Knowledge) -> Counts:
    """Set beliefs and rates of one problem from its votes; returns what the votes are expected to count for."""
    keep, mended = known.keep, known.mended
    proofs = progress.proofs
    up = []
    for proof in proofs:
        right, wrong = known.verifier.likelihood(proof.passed, proof.votes)
        up.append((np.full_like(RATES, right), np.full_like(RATES, wrong)))
    told: list[tuple[Grid, Grid]] = [(RATES, RATES)] * len(proofs)
    logs = np.zeros_like(RATES)
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
    likelihood = np.exp(logs - logs.max())
    weights = likelihood * known.shares
    weights /= weights.sum()
    counts = Counts(likelihood, [])
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
            counts.mended += weights * mends
            counts.of_wrong += weights * of_wrong
            scale = prior + against
            prior, against = prior / scale, against / scale
        above.append((prior, against))
        proof.belief = _clip(float(weights @ (prior * right / (prior * right + against * wrong))))
        if proof.votes:
            counts.votes.append((proof.passed, proof.votes, proof.belief))
    written = sum(proof.source is None for proof in proofs)
    if_wrong = known.shares * (1 - RATES) ** written * (1 - mended) ** (len(proofs) - written)
    if_wrong /= if_wrong.sum()
    progress.rate, progress.mended = _clip(float(if_wrong @ RATES)), _clip(float(if_wrong @ mended))
    return counts


def learn(cohort: Sequence[Progress], first: Knowledge, before: Knowledge) -> Knowledge:
    """What all votes of a cohort teach, in the order given, beginning at what was known `before`."""
    known = before
    for _ in range(_ROUNDS):
        known = _maximise([believe(progress, known) for progress in cohort], first, known.shares)
    return known


def _maximise(counts: Sequence[Counts], first: Knowledge, shares: Grid) -> Knowledge:
    verifier = _verifier([votes for item in counts for votes in item.votes], first.verifier)
    likelihoods = np.stack([item.likelihood for item in counts])
    for _ in range(_SHARE_ROUNDS):
        weights = likelihoods * shares
        shares = _PROBLEM_WEIGHT * first.shares + (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
        shares /= shares.sum()
    kept, of_right = sum(item.kept for item in counts), sum(item.of_right for item in counts)
    keep = (_REFINED_WEIGHT * first.keep + kept) / (_REFINED_WEIGHT + of_right)
    mended, of_wrong = (np.sum([getattr(item, name) for item in counts], axis=0) for name in ("mended", "of_wrong"))
    mend = _mend(mended, of_wrong, first.mend)
    return Knowledge(verifier, shares, min(0.99, keep), mend)


def _verifier(votes: Sequence[tuple[int, int, float]], guess: Verifier) -> Verifier:
    """Posterior means of s, f and alike on a grid, each side's votes weighed by how likely the proof is on it."""
    weights: dict[tuple[int, int], Grid] = {}
    for passed, of, belief in votes:
        weights[passed, of] = weights.get((passed, of), np.zeros(2)) + (belief, 1 - belief)
    most = max((of for _, of in weights), default=0)
    own = (1 - _ALIKE)[:, None]
    shared = np.arange(most) * _ALIKE[:, None]
    # log of the chances' running products, [alike, mean, votes so far]
    passing, failing = (_running(mean[:, None] * own[:, None] + shared[:, None]) for mean in (_MEANS, 1 - _MEANS))
    whole = _running(own + shared)
    logs = _VOTE_WEIGHT * np.stack(
        [mean * np.log(_MEANS) + (1 - mean) * np.log(1 - _MEANS) for mean in (guess.if_right, guess.if_wrong)]
    )
    logs = np.repeat(logs[:, None], len(_ALIKE), axis=1)  # [right or wrong, alike, mean]
    for (passed, of), weight in weights.items():
        logs += weight[:, None, None] * (passing[..., passed] + failing[..., of - passed] - whole[:, None, of])
    tops = logs.max(axis=2, keepdims=True)
    shares = np.exp(logs - tops)  # each row by its own top: of many votes all else would vanish
    sums = shares.sum(axis=2)
    weighed = (np.log(sums) + tops[..., 0]).sum(axis=0) + _ALIKE_WEIGHT * np.log(1 - _ALIKE)
    by_alike = np.exp(weighed - weighed.max())
    by_alike /= by_alike.sum()
    means = (shares @ _MEANS) / sums
    if_right, if_wrong = (_clip(float(mean @ by_alike)) for mean in means)
    return Verifier(if_right, min(if_wrong, if_right - 0.02), float(by_alike @ _ALIKE))


def _running(chances: Grid) -> Grid:
    """Sums of logs over the last axis, from none to all of them."""
    found: Grid = np.zeros((*chances.shape[:-1], chances.shape[-1] + 1))
    np.cumsum(np.log(chances), axis=-1, out=found[..., 1:])
    return found


def _mended(mends: Grid) -> Grid:
    """[mend, rate]: how likely a refined proof of a wrong one is right."""
    odds: Grid = mends[:, None] * RATES / (1 - RATES)
    return odds / (1 + odds)


def _mend(mended: Grid, of_wrong: Grid, guess: float) -> float:
    """Posterior mean (of its logarithm) of mend on a grid, from how many of the wrong proofs were mended, by rate.

    By rate, since odds of means over easy and hard problems are not the mean of odds: they lie nearer to one.
    """
    chances = _mended(_MENDS)
    logs = np.log(chances) @ mended + np.log(1 - chances) @ (of_wrong - mended)
    logs -= (np.log(_MENDS / guess) / _MEND_SPREAD) ** 2 / 2
    shares = np.exp(logs - logs.max())
    return float(np.exp(shares @ np.log(_MENDS) / shares.sum()))


def _clip(share: float) -> float:
    return min(1 - _EDGE, max(_EDGE, share))
