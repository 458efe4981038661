"""Policy-gradient objectives per token, and how tokens are aggregated. Pure tensors in, pure tensors out.

Notation: log p the current policy's log-prob of a sampled token, log mu the behaviour policy's (as the server gave it,
under the sampling temperature), A the advantage of its sample, ratio = exp(log p - log mu), sg() no gradient.
Losses are to be minimised. The step's loss is sum over tokens of weight * loss, with weights from `token_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # |log p - log mu| beyond this says nothing more and would overflow exp
KL_LOG_RATIO_LIMIT = 5.0  # as in QED-Nano's reference


@dataclass(frozen=True)
class LossConfig:
    """Coefficients. `importance_cap` is the largest importance weight itself (1 + epsilon in papers that give one);
    ratios are clipped to [1 - clip_low, 1 + clip_high]. `kl` is none, k1 or k3, to the reference policy."""

    loss: str = "REINFORCE"
    importance_cap: float = 5.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    entropy_bonus: float = 0.0
    entropy_decay_steps: int = 0
    kl: str = "none"
    kl_weight: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether there is a KL term."""
        return self.kl != "none" and self.kl_weight > 0

    def at(self, step: int) -> LossConfig:
        """The coefficients of optimizer step `step` (from 0): the entropy bonus falls linearly to 0."""
        if not self.entropy_decay_steps:
            return self
        left = max(0.0, 1 - step / self.entropy_decay_steps)
        return replace(self, entropy_bonus=self.entropy_bonus * left)


@dataclass(frozen=True)
class LossInputs:
    """N sampled tokens of whole samples (a sample is never split): all [N] and fp32, `sample` int64 numbers them.

    `reference` holds the reference policy's log-probs, needed only with a KL term.
    """

    logprobs: Tensor
    behaviour: Tensor
    advantages: Tensor
    sample: Tensor
    entropies: Tensor
    reference: Tensor | None = None


@dataclass(frozen=True)
class TokenLosses:
    """Per token [N]: `loss` with gradient; without: `ratio`, and `clipped` where the objective cut it (0 or 1)."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def reinforce(inputs: LossInputs, config: LossConfig) -> TokenLosses:
    """REINFORCE with truncated importance weights: -sg(clamp(ratio, 0, cap)) * A * log p.

    The reference's objective (QED-Nano, arXiv 2604.04898, and PipelineRL, arXiv 2509.19128), cap = 1 + epsilon with
    epsilon = 4. Truncation as in IMPALA, arXiv 1802.01561.
    """
    ratio = _ratio(inputs).detach()
    weight = ratio.clamp(max=config.importance_cap)
    return TokenLosses(-weight * inputs.advantages * inputs.logprobs, ratio, _share(ratio > config.importance_cap))


def ppo(inputs: LossInputs, config: LossConfig) -> TokenLosses:
    """PPO clip: -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A). Schulman et al., arXiv 1707.06347; separate bounds
    as in DAPO, arXiv 2503.14476."""
    ratio = _ratio(inputs)
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    free, cut = ratio * inputs.advantages, bounded * inputs.advantages
    return TokenLosses(-torch.minimum(free, cut), ratio.detach(), _share(cut < free))


def cispo(inputs: LossInputs, config: LossConfig) -> TokenLosses:
    """CISPO: -sg(clip(ratio, 1 - low, 1 + high)) * A * log p; every token keeps its gradient. MiniMax-M1, arXiv
    2506.13585."""
    ratio = _ratio(inputs).detach()
    weight = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return TokenLosses(-weight * inputs.advantages * inputs.logprobs, ratio, _share(weight != ratio))


def gspo(inputs: LossInputs, config: LossConfig) -> TokenLosses:
    """GSPO: PPO clip on the sequence's ratio s = exp(mean over its tokens of (log p - log mu)), the same loss for each
    of its tokens. With SequenceMean weights this is the paper's objective. Zheng et al., arXiv 2507.18071."""
    log_ratio = (inputs.logprobs - inputs.behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    _, place = torch.unique(inputs.sample, return_inverse=True)
    zeros = log_ratio.new_zeros(int(place.max()) + 1 if len(place) else 0)
    means = zeros.index_add(0, place, log_ratio) / zeros.index_add(0, place, torch.ones_like(log_ratio))
    ratio = means.exp()[place]
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    free, cut = ratio * inputs.advantages, bounded * inputs.advantages
    return TokenLosses(-torch.minimum(free, cut), ratio.detach(), _share(cut < free))


LOSSES: dict[str, Callable[[LossInputs, LossConfig], TokenLosses]] = {
    "REINFORCE": reinforce,
    "PPO": ppo,
    "CISPO": cispo,
    "GSPO": gspo,
}


def token_losses(inputs: LossInputs, config: LossConfig) -> TokenLosses:
    """The configured objective, minus the entropy bonus, plus the KL term."""
    terms = LOSSES[config.loss](inputs, config)
    loss = terms.loss
    if config.entropy_bonus:
        loss = loss - config.entropy_bonus * inputs.entropies
    if config.needs_reference:
        if inputs.reference is None:
            raise ValueError("a KL term needs the reference policy's log-probs")
        loss = loss + config.kl_weight * kl_divergence(inputs.logprobs, inputs.reference, config.kl)
    return TokenLosses(loss, terms.ratio, terms.clipped)


def kl_divergence(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Estimates [N] of KL(policy || reference) from the policy's own samples, with d = log reference - log p, |d| <= 5.

    k1: -d, unbiased. k3: exp(d) - d - 1, unbiased too, never negative. Schulman 2020, joschu.net/blog/kl-approx.html.

    The gradient is that of a loss, which an estimate's own gradient need not be: that of -d is on average none at all,
    as E_p[grad log p] = 0. So k1's is sg(-d) * grad log p, on average the gradient of KL(policy || reference). k3's own
    is on average that of KL(reference || policy). Tang & Munos, arXiv 2506.09477. Both on policy, token by token.
    """
    d = (reference - logprobs).clamp(-KL_LOG_RATIO_LIMIT, KL_LOG_RATIO_LIMIT)
    if estimator == "k1":
        estimate = -d.detach()
        return estimate * (1 + logprobs - logprobs.detach())
    if estimator == "k3":
        return torch.expm1(d) - d
    raise ValueError(f"unknown KL estimator {estimator!r}: use k1 or k3")


def token_weights(lengths: Sequence[int], aggregation: str, samples: int | None = None) -> list[float]:
    """Weight of each token of each sample of a step, by the samples' completion lengths.

    Constant: 1 / samples, so a sample counts by its sum over tokens (the reference; `samples` is the nominal size of a
    step, by default how many there are). TokenMean: 1 / tokens of the step. SequenceMean: 1 / (samples * its length).
    """
    samples = samples or len(lengths)
    match aggregation:
        case "Constant":
            return [1 / samples] * len(lengths)
        case "TokenMean":
            return [1 / max(1, sum(lengths))] * len(lengths)
        case "SequenceMean":
            return [1 / (samples * max(1, length)) for length in lengths]
    raise ValueError(f"unknown aggregation {aggregation!r}")


def _ratio(inputs: LossInputs) -> Tensor:
    return (inputs.logprobs - inputs.behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def _share(condition: Tensor) -> Tensor:
    return condition.float().detach()
