"""Log-probs and entropy of given tokens without ever holding tokens x vocabulary, forward or backward.

Logits are made in chunks of tokens, reduced at once, thrown away, and made again in the backward pass. Where the loss
is known to be linear in the log-probs (SFT), the gradients are made along with the log-probs and nothing twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}  # logits held at once: 32 MiB in fp32, or 512 MiB


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """A chunk's logits in fp32, in a buffer of their own."""
    logits = (hidden @ weight.T).float()
    return logits if temperature == 1 else logits.div_(temperature)


def _reduce(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs and entropies of a chunk in one pass; also log Z and e^z, z being logits less their maximum and Z the
    sum of e^z.  log p_y = z_y - log Z,  H = log Z - sum(e^z z) / Z.  `logits` becomes z.
    """
    z = logits.sub_(logits.amax(-1, keepdim=True))
    at_target = z.gather(1, targets[:, None]).squeeze(1)
    exp = z.exp()
    total = exp.sum(-1)
    log_total = total.log()
    return at_target - log_total, log_total - torch.linalg.vecdot(exp, z) / total, log_total, exp


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # an entropy that is only shown costs nothing in the backward pass
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy, log_total = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            found = _reduce(_logits(hidden[part], weight, temperature), targets[part])
            logprobs[part], entropy[part], log_total[part] = found[:3]
            del found  # e^z would live on beside the next chunk's
        ctx.save_for_backward(hidden, weight, targets, log_total, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, log_total, entropy = ctx.saved_tensors
        grad_logprobs, grad_entropy = grads
        grad_hidden, grad_weight = _new_gradients(hidden, weight, ctx.needs_input_grad)
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            log_p = _logits(hidden[part], weight, ctx.temperature)
            log_p.sub_(log_p.amax(-1, keepdim=True)).sub_(log_total[part, None])
            # d log p_y / dz = onehot(y) - p;  dH / dz = -p (log p + H)
            factor = None if grad_logprobs is None else -grad_logprobs[part, None]
            if grad_entropy is None:
                grad = log_p.exp_().mul_(factor if factor is not None else 0.0)
            else:
                p = log_p.exp()
                grad = log_p.add_(entropy[part, None]).mul_(-grad_entropy[part, None])
                grad = (grad if factor is None else grad.add_(factor)).mul_(p)
            if grad_logprobs is not None:
                grad.scatter_add_(1, targets[part, None], grad_logprobs[part, None])
            _add_gradients(grad, hidden, weight, part, ctx.temperature, grad_hidden, grad_weight)
        return (*_cast(grad_hidden, grad_weight, hidden, weight), None, None, None)


class _LinearLogProbs(torch.autograd.Function):
    """Like `_ChunkedLogProbs`, for a loss whose gradient by the log-probs is a multiple of `coefficients` [N]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        coefficients: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        grad_hidden, grad_weight = _new_gradients(hidden, weight, ctx.needs_input_grad)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, temperature)
            logprobs[part], entropy[part], log_total, exp = _reduce(logits, targets[part])
            del logits
            wanted = coefficients[part, None]
            grad = exp.mul_(-wanted * log_total.neg().exp()[:, None]).scatter_add_(1, targets[part, None], wanted)
            _add_gradients(grad, hidden, weight, part, temperature, grad_hidden, grad_weight)
        ctx.save_for_backward(coefficients, *_cast(grad_hidden, grad_weight, hidden, weight))
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        coefficients, grad_hidden, grad_weight = ctx.saved_tensors
        square = coefficients.square().sum()
        multiple = (grads[0] * coefficients).sum() / torch.where(square > 0, square, 1.0)
        hidden, weight = (None if grad is None else grad * multiple for grad in (grad_hidden, grad_weight))
        return hidden, weight, None, None, None, None


def _new_gradients(hidden: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Room for the gradients: of hidden as it is, of the weight in fp32; None where not needed (frozen weights)."""
    return (
        torch.empty_like(hidden) if needed[0] else None,
        torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None,
    )


def _add_gradients(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    part: slice,
    temperature: float,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
) -> None:
    """Carry a chunk's gradient by its logits on to hidden and weight."""
    if temperature != 1:
        grad.div_(temperature)
    grad = grad.to(hidden.dtype)
    if grad_hidden is not None:
        torch.mm(grad, weight, out=grad_hidden[part])
    if grad_weight is not None:
        if grad.dtype == torch.float32:
            grad_weight.addmm_(grad.T, hidden[part])
        else:
            grad_weight += grad.T @ hidden[part]


def _cast(
    grad_hidden: Tensor | None, grad_weight: Tensor | None, hidden: Tensor, weight: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
    coefficients: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs [N] of `targets` and entropies [N] in nats, under softmax(hidden weight^T / temperature).

    hidden: [N, H]; weight: [V, H]; targets: [N]; chunk: tokens whose logits are held at once; coefficients [N]: say
    that the loss will be a multiple of sum(coefficients * log-probs), and the backward pass is nearly free. The
    entropies carry no gradient then.
    """
    chunk = chunk or max(1, CHUNK_LOGITS.get(hidden.device.type, 1 << 23) // weight.shape[0])
    if coefficients is not None and torch.is_grad_enabled():
        found = _LinearLogProbs.apply(hidden, weight, targets, temperature, chunk, coefficients)  # type: ignore[no-untyped-call]
    else:
        found = _ChunkedLogProbs.apply(hidden, weight, targets, temperature, chunk)  # type: ignore[no-untyped-call]
    logprobs, entropies = found
    return logprobs, entropies


class LogProbHead(nn.Module):
    """Stands where the language-model head was and shares its weight; a module of its own so that ZeRO-3, which
    gathers parameters per module, has the weight at hand in both passes."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        if head.bias is not None:
            raise NotImplementedError("a language-model head with a bias is not supported")
        self.weight: nn.Parameter = head.weight

    def forward(
        self, hidden: Tensor, targets: Tensor, temperature: float = 1.0, coefficients: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `chunked_logprobs`."""
        return chunked_logprobs(hidden, self.weight, targets, temperature, coefficients=coefficients)
