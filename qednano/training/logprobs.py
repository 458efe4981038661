"""Log-probs and entropy of given tokens without ever holding tokens x vocabulary, forward or backward.

Logits are made in chunks of tokens, reduced at once, thrown away, and made again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = 1 << 24  # logits held at once: 64 MiB in fp32


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            log_p = _log_softmax(hidden[part], weight, temperature)
            logprobs[part] = log_p.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, weight, targets, entropy = ctx.saved_tensors
        grad_logprobs, grad_entropy = grads
        grad_hidden = torch.empty_like(hidden)
        frozen = not ctx.needs_input_grad[1]  # as under adapters
        grad_weight = None if frozen else torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            log_p = _log_softmax(hidden[part], weight, ctx.temperature)
            p = log_p.exp()
            # d log p_y / dz = onehot(y) - p;  dH / dz = -p (log p + H)
            grad = -p * (grad_logprobs[part, None] + grad_entropy[part, None] * (log_p + entropy[part, None]))
            grad.scatter_add_(1, targets[part, None], grad_logprobs[part, None])
            grad = (grad / ctx.temperature).to(hidden.dtype)
            grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax((hidden @ weight.T).float() / temperature, dim=-1)


def chunked_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs [N] of `targets` and entropies [N] in nats, under softmax(hidden weight^T / temperature).

    hidden: [N, H]; weight: [V, H]; targets: [N]; chunk: tokens whose logits are held at once.
    """
    chunk = chunk or max(1, CHUNK_LOGITS // weight.shape[0])
    logprobs, entropies = _ChunkedLogProbs.apply(hidden, weight, targets, temperature, chunk)  # type: ignore[no-untyped-call]
    return logprobs, entropies


class LogProbHead(nn.Module):
    """Stands where the language-model head was and shares its weight; a module of its own so that ZeRO-3, which
    gathers parameters per module, has the weight at hand in both passes."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        if head.bias is not None:
            raise NotImplementedError("a language-model head with a bias is not supported")
        self.weight: nn.Parameter = head.weight

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """See `chunked_logprobs`."""
        return chunked_logprobs(hidden, self.weight, targets, temperature)
