"""What Adaptive believes and decides, against closed forms and simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import betabinom

from qednano.evals.scaffolds.belief import RATES, Progress, Verifier, _mend, _verifier, believe, first_guess, learn
from qednano.evals.scaffolds.testing import Costs, table


@pytest.mark.parametrize(("passed", "votes"), [(0, 0), (1, 1), (0, 3), (2, 3), (5, 8)])
def test_votes_on_one_proof_are_beta_binomial(passed, votes):
    verifier = Verifier(0.8, 0.3, alike=0.25)
    for mean, found in zip((0.8, 0.3), verifier.likelihood(passed, votes), strict=True):
        weight = 1 / 0.25 - 1
        orders = betabinom.pmf(passed, votes, mean * weight, (1 - mean) * weight)
        assert found == pytest.approx(orders / math.comb(votes, passed))


def test_independent_votes_are_the_special_case():
    assert Verifier(0.9, 0.2).likelihood(2, 3) == pytest.approx((0.9**2 * 0.1, 0.2**2 * 0.8))
    assert Verifier(0.9, 0.2).next_vote(5, 5) == (0.9, 0.2)


def test_one_more_vote_says_less_the_more_alike_votes_are():
    beliefs = [Verifier(0.8, 0.2, alike).after(0.5, 3, 3, True) for alike in (0.0, 0.2, 0.45)]
    assert beliefs == sorted(beliefs, reverse=True) and beliefs[-1] > 0.5


def cohort(alike: float, seed: int, problems: int = 300, votes: int = 6) -> list[Progress]:
    """Problems with rates near 0 and 1, two proofs each, voted on by a verifier of 0.85 and 0.2."""
    rng, found = np.random.default_rng(seed), []
    for number in range(problems):
        progress, rate = Progress(f"{number}"), rng.beta(0.3, 0.3)
        for _ in range(2):
            progress.add(None)
            mean = 0.85 if rng.random() < rate else 0.2
            weight = 1 / alike - 1 if alike else 0.0
            chance = rng.beta(mean * weight, (1 - mean) * weight) if alike else mean
            progress.proofs[-1].votes = votes
            progress.proofs[-1].passed = int(rng.binomial(votes, chance))
        found.append(progress)
    return found


@pytest.mark.parametrize("alike", [0.0, 0.15, 0.3])
def test_accuracies_and_how_alike_votes_are_come_from_the_votes_alone(alike):
    """Without bias: the mean over cohorts is right, though one cohort may be 0.1 off (standard deviation 0.05)."""
    found = []
    for seed in range(5, 11):
        seen, known = cohort(alike, seed), (first := first_guess(0.8, 0.3, 0.3))
        for _ in range(6):
            known = learn(seen, first, known)
        found.append((known.verifier.if_right, known.verifier.if_wrong, known.verifier.alike))
    assert np.mean(found, axis=0) == pytest.approx((0.85, 0.2, alike), abs=0.03)


def test_beliefs_are_right_as_often_as_they_say():
    rng, verifier, said, was = np.random.default_rng(2), Verifier(0.8, 0.3, 0.25), [], []
    first = first_guess(0.8, 0.3, 0.4)
    known = replace(first, verifier=verifier)
    for number in range(1500):
        progress, right = Progress(f"{number}"), rng.random() < rng.choice(RATES, p=first.shares)
        progress.add(None)
        mean = 0.8 if right else 0.3
        progress.proofs[0].votes, progress.proofs[0].passed = (
            4,
            int(rng.binomial(4, rng.beta(mean * 3, (1 - mean) * 3))),
        )
        believe(progress, known)
        said.append(progress.best)
        was.append(right)
    said, was = np.array(said), np.array(was)
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (said >= low) & (said < high)
        assert was[inside].mean() == pytest.approx(said[inside].mean(), abs=0.06)


def test_very_many_votes_are_learned_from_too():
    """Their likelihoods are too small for a float: right and wrong proofs may favour quite different correlations."""
    votes = [(3, 4, 1.0), (2, 4, 1.0)] * 4000 + [(0, 16, 0.0), (16, 16, 0.0)] * 4000
    found = _verifier(votes, Verifier(0.8, 0.2))
    assert 0.5 < found.if_right < 0.99 and 0.3 < found.if_wrong < 0.7 and 0 <= found.alike <= 0.5


@pytest.mark.parametrize("mend", [0.5, 1.5, 4.0])
def test_what_refining_does_is_found_whatever_the_mix_of_easy_and_hard_problems(mend):
    """Odds of the mean over problems would be nearer to one: 1.3 where each problem's are 1.5."""
    mended = replace(first_guess(0.8, 0.2, 0.4), mend=mend).mended
    of_wrong = 400 * np.linspace(2.0, 0.1, len(RATES))
    assert _mend(of_wrong * mended, of_wrong, 1.2) == pytest.approx(mend, rel=0.03)
    assert _mend(0 * RATES, 0 * RATES, 1.2) == pytest.approx(1.2, rel=0.01), "nothing seen leaves the guess"


def test_a_belief_near_zero_is_not_taken_for_a_larger_one():
    """Votes pay at a belief of 0.025 here and not at 0.004: on an even grid of 41 points they would seem to."""
    known = first_guess(0.9, 0.1, 0.4)
    solved = table(known.verifier, known.keep, known.failing(2), Costs(9.0, 9.0, 0.004))
    assert solved.look(solved.value, 0, 0.25, 0.004) == pytest.approx(0.25, abs=1e-4)
    assert solved.look(solved.value, 0, 0.25, 0.025) > 0.251


def test_nothing_is_asked_that_costs_more_than_it_can_bring():
    known = first_guess(0.9, 0.1, 0.4)
    dear = table(known.verifier, known.keep, known.failing(8), Costs(2.0, 2.0, 2.0))
    cheap = table(known.verifier, known.keep, known.failing(8), Costs(0.01, 0.01, 0.001))
    for belief in (0.1, 0.5, 0.9):
        assert dear.look(dear.value, 0, 0.0, belief) == pytest.approx(belief) and dear.spent.max() == 0
        assert belief < cheap.look(cheap.value, 0, 0.0, belief) <= 1
    values = [cheap.look(cheap.value, 0, floor, 0.5) for floor in (0.0, 0.5, 1.0)]
    assert values == sorted(values) and values[-1] >= 1 - 1e-9, "never worth less than the best that is there"


def test_looking_ahead_is_worth_what_simulation_earns():
    """Following the table's own comparison of a vote with stopping earns, on average, the value that it promised."""
    known, verifier = first_guess(0.9, 0.1, 0.4), Verifier(0.85, 0.2, 0.2)
    costs = Costs(9.0, 9.0, 0.02)  # votes alone are in question
    solved = table(verifier, known.keep, known.failing(2), costs)
    rng, earned, begin = np.random.default_rng(8), [], 0.5
    for _ in range(20_000):
        right, belief, passed, votes, paid = rng.random() < begin, begin, 0, 0, 0.0
        mean = 0.85 if right else 0.2
        own = rng.beta(mean * 4, (1 - mean) * 4)
        while votes < 8:
            after = [verifier.after(belief, passed, votes, vote) for vote in (True, False)]
            chance = belief * verifier.next_vote(passed, votes)[0] + (1 - belief) * verifier.next_vote(passed, votes)[1]
            going_on = chance * solved.look(solved.value, 0, 0.4, after[0], (passed + 1, votes + 1))
            going_on += (1 - chance) * solved.look(solved.value, 0, 0.4, after[1], (passed, votes + 1))
            if going_on - costs.vote <= max(belief, 0.4) + 1e-9:
                break
            vote = rng.random() < own
            belief, passed, votes, paid = after[0 if vote else 1], passed + vote, votes + 1, paid + costs.vote
        earned.append((right if belief >= 0.4 else 0.4) - paid)
    assert np.mean(earned) == pytest.approx(solved.look(solved.value, 0, 0.4, begin), abs=0.015)
