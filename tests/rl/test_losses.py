"""Each objective and its gradient against formulas worked out by hand, in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from qednano.rl.losses import LossConfig, LossInputs, kl_divergence, token_losses, token_weights

# (log p, log mu, advantage) of five tokens of samples 7, 7, 7, 3, 3: ratios about 1, 7.4, 0.14, 1.1, 1.5
TOKENS = [(-1.0, -1.0, 1.0), (-0.5, -2.5, 1.0), (-3.0, -1.0, 1.0), (-0.4, -0.5, -0.5), (-0.6, -1.0, -0.5)]
SAMPLES = [7, 7, 7, 3, 3]
CONFIG = {"importance_cap": 5.0, "clip_low": 0.2, "clip_high": 0.3}


def inputs(**changes) -> tuple[torch.Tensor, LossInputs]:
    logprobs = torch.tensor([t[0] for t in TOKENS], dtype=torch.float64, requires_grad=True)
    others = [torch.tensor([t[i] for t in TOKENS], dtype=torch.float64) for i in (1, 2)]
    entropies = torch.full((5,), 0.7, dtype=torch.float64, requires_grad=True)
    fields = {"behaviour": others[0], "advantages": others[1], "sample": torch.tensor(SAMPLES), "entropies": entropies}
    return logprobs, LossInputs(logprobs=logprobs, **{**fields, **changes})


def losses_and_gradients(name: str, **config):
    logprobs, given = inputs()
    terms = token_losses(given, LossConfig(loss=name, **{**CONFIG, **config}))
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)
    return terms.loss.tolist(), gradient.tolist(), terms.clipped.tolist()


def test_reinforce_truncates_the_importance_weight():
    loss, gradient, clipped = losses_and_gradients("REINFORCE")
    for i, (lp, mu, a) in enumerate(TOKENS):
        weight = min(math.exp(lp - mu), 5.0)
        assert loss[i] == pytest.approx(-weight * a * lp)
        assert gradient[i] == pytest.approx(-weight * a)  # the weight carries no gradient
    assert clipped == [0, 1, 0, 0, 0]


def test_ppo_takes_the_worse_of_free_and_clipped():
    loss, gradient, clipped = losses_and_gradients("PPO")
    for i, (lp, mu, a) in enumerate(TOKENS):
        ratio = math.exp(lp - mu)
        bounded = min(max(ratio, 0.8), 1.3)
        assert loss[i] == pytest.approx(-min(ratio * a, bounded * a))
        flat = (a > 0 and ratio > 1.3) or (a < 0 and ratio < 0.8)
        assert gradient[i] == pytest.approx(0.0 if flat else -ratio * a)
    assert clipped == [0, 1, 0, 0, 0]


def test_cispo_clips_the_weight_and_keeps_every_gradient():
    loss, gradient, clipped = losses_and_gradients("CISPO")
    for i, (lp, mu, a) in enumerate(TOKENS):
        weight = min(max(math.exp(lp - mu), 0.8), 1.3)
        assert loss[i] == pytest.approx(-weight * a * lp)
        assert gradient[i] == pytest.approx(-weight * a)
    assert clipped == [0, 1, 1, 0, 1]


def test_gspo_clips_the_ratio_of_the_whole_sequence():
    # sample 7: mean log-ratio (0 + 2 - 2) / 3 = 0, s = 1; sample 3: (0.1 + 0.4) / 2 = 0.25, s = e^0.25 = 1.284
    loss, gradient, clipped = losses_and_gradients("GSPO")
    s = {7: 1.0, 3: math.exp(0.25)}
    size = {7: 3, 3: 2}
    for i, (_, _, a) in enumerate(TOKENS):
        sample = SAMPLES[i]
        assert loss[i] == pytest.approx(-s[sample] * a, rel=1e-6)
        # each of the sequence's tokens carries the same loss, and moves s by s / length
        assert gradient[i] == pytest.approx(-s[sample] * a * size[sample] / size[sample], rel=1e-6)
    assert clipped == [0] * 5
    _, gradient, clipped = losses_and_gradients("GSPO", clip_low=0.01, clip_high=0.01)
    # a negative advantage with s above the bound is not clipped: PPO's pessimism, for sequences
    assert clipped == [0] * 5 and gradient[3] == pytest.approx(math.exp(0.25) * 0.5, rel=1e-6)


def test_gspo_gives_no_gradient_once_the_sequence_is_past_its_bound():
    logprobs, given = inputs(advantages=torch.full((5,), 2.0, dtype=torch.float64))
    terms = token_losses(given, LossConfig(loss="GSPO", clip_low=0.1, clip_high=0.1))
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)
    assert terms.loss[3:].tolist() == pytest.approx([-2.2, -2.2]) and gradient[3:].tolist() == [0, 0]
    assert terms.clipped.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["REINFORCE", "PPO", "CISPO"])
def test_on_average_over_the_behaviour_policy_the_gradient_is_the_true_one(name):
    """A bandit with four actions, summed exactly: E_mu[grad loss] = -grad E_p[A] while nothing is cut."""
    theta = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 0.0, 0.5, 0.2], dtype=torch.float64)
    mu = torch.softmax(torch.tensor([0.0, 0.0, 0.2, 0.1], dtype=torch.float64), 0)
    (truth,) = torch.autograd.grad((torch.softmax(theta, 0) * reward).sum(), theta)
    logprobs = torch.log_softmax(theta, 0)
    given = LossInputs(logprobs, mu.log(), reward, torch.arange(4), torch.zeros(4))
    terms = token_losses(given, LossConfig(loss=name, importance_cap=100.0, clip_low=0.9, clip_high=100.0))
    (found,) = torch.autograd.grad((mu * terms.loss).sum(), theta)
    torch.testing.assert_close(found, -truth)


def test_on_policy_all_objectives_have_the_same_gradient():
    gradients = []
    for name in ("REINFORCE", "PPO", "CISPO"):
        logprobs, given = inputs()
        given = LossInputs(logprobs, logprobs.detach(), given.advantages, given.sample, given.entropies)
        gradients.append(torch.autograd.grad(token_losses(given, LossConfig(loss=name)).loss.sum(), logprobs)[0])
    for gradient in gradients:
        torch.testing.assert_close(gradient, -given.advantages)


def test_the_entropy_bonus_is_taken_off():
    logprobs, given = inputs()
    plain = token_losses(given, LossConfig())
    bonus = token_losses(given, LossConfig(entropy_bonus=0.01))
    torch.testing.assert_close(bonus.loss, plain.loss - 0.007)
    (gradient,) = torch.autograd.grad(bonus.loss.sum(), given.entropies)
    assert gradient.tolist() == pytest.approx([-0.01] * 5)


def test_kl_estimators_and_their_gradients():
    logprobs, _ = inputs()
    reference = torch.tensor([-1.0, -1.0, -2.0, -9.0, -0.5], dtype=torch.float64)
    for estimator in ("k1", "k3"):
        found = kl_divergence(logprobs, reference, estimator)
        (gradient,) = torch.autograd.grad(found.sum(), logprobs)
        found = found.detach()
        for i, (lp, _, _) in enumerate(TOKENS):
            d = max(-5.0, min(5.0, float(reference[i]) - lp))
            inside = 1.0 if abs(float(reference[i]) - lp) <= 5 else 0.0
            expected = (-d, -d) if estimator == "k1" else (math.exp(d) - d - 1, inside * (1 - math.exp(d)))
            assert (float(found[i]), float(gradient[i])) == pytest.approx(expected)
        assert estimator == "k1" or (found >= 0).all()


def test_the_kl_term_is_added_and_needs_a_reference():
    logprobs, given = inputs(reference=torch.full((5,), -1.0, dtype=torch.float64))
    config = LossConfig(kl="k3", kl_weight=0.1)
    expected = token_losses(given, LossConfig()).loss + 0.1 * kl_divergence(logprobs, given.reference, "k3")
    torch.testing.assert_close(token_losses(given, config).loss, expected)
    with pytest.raises(ValueError, match="reference"):
        token_losses(inputs()[1], config)


def test_aggregations_weigh_tokens_as_they_say():
    lengths = [2, 6]
    assert token_weights(lengths, "Constant") == [1 / 2, 1 / 2]
    assert token_weights(lengths, "Constant", samples=8) == [1 / 8, 1 / 8]
    assert token_weights(lengths, "TokenMean") == [1 / 8, 1 / 8]
    assert token_weights(lengths, "SequenceMean") == [1 / 4, 1 / 12]
    with pytest.raises(ValueError, match="Median"):
        token_weights(lengths, "Median")


@pytest.mark.parametrize("name", ["REINFORCE", "PPO", "CISPO", "GSPO"])
def test_absurd_ratios_stay_finite(name):
    logprobs = torch.tensor([-1e4, -0.1], requires_grad=True)
    given = LossInputs(
        logprobs, torch.tensor([-0.1, -1e4]), torch.tensor([1.0, -1.0]), torch.tensor([0, 1]), torch.zeros(2)
    )
    terms = token_losses(given, LossConfig(loss=name))
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)
    assert torch.isfinite(terms.loss).all() and torch.isfinite(gradient).all()


def test_the_entropy_bonus_decays_linearly_to_nothing():
    config = LossConfig(entropy_bonus=0.1, entropy_decay_steps=10)
    assert [config.at(step).entropy_bonus for step in (0, 5, 10, 99)] == pytest.approx([0.1, 0.05, 0, 0])
    assert LossConfig(entropy_bonus=0.1).at(99).entropy_bonus == 0.1


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_is_the_divergence_on_average_over_the_policy_and_its_gradient_a_divergences(estimator):
    """Summed exactly over six actions: E_p[estimate] = KL(p || reference), E_p[its gradient] = that of a divergence."""
    theta = torch.tensor([0.3, -0.1, 0.0, 0.2, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(theta, 0)
    reference = torch.log_softmax(torch.tensor([0.0, 0.1, 0.2, -0.2, 0.3, 0.0], dtype=torch.float64), 0)
    from_policy = (logprobs.exp() * (logprobs - reference)).sum()
    from_reference = (reference.exp() * (reference - logprobs)).sum()
    probabilities = logprobs.exp().detach()  # samples are drawn; no gradient passes through that
    found = (probabilities * kl_divergence(logprobs, reference, estimator)).sum()
    torch.testing.assert_close(found, from_policy, atol=1e-12, rtol=0)
    divergence = {"k1": from_policy, "k3": from_reference}[estimator]
    gradient, expected = (torch.autograd.grad(it, theta, retain_graph=True)[0] for it in (found, divergence))
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_a_kl_term_alone_leads_the_policy_to_the_reference(estimator):
    theta = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64), 0)
    for _ in range(300):
        logprobs = torch.log_softmax(theta, 0)
        expectation = (logprobs.exp().detach() * kl_divergence(logprobs, reference, estimator)).sum()
        (gradient,) = torch.autograd.grad(expectation, theta)
        theta = (theta - gradient).detach().requires_grad_()
    torch.testing.assert_close(torch.log_softmax(theta, 0), reference, atol=1e-3, rtol=0)
