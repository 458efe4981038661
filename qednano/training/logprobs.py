"""Log-probs and entropy of given tokens without ever holding tokens x vocabulary, forward or backward.

Logits are made in chunks of tokens, reduced at once, thrown away, and made again in the backward pass. Where the loss
is known to be linear in the log-probs (SFT), the gradients are made along with the log-probs and nothing twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qednano.errors import ConfigError

CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 27}  # logits held at once: 128 MiB in fp32, or 512 MiB


class _Workspace:
    """Room for one chunk's logits, used for every chunk: fresh memory would cost more to map than to fill."""

    def __init__(self, hidden: Tensor, weight: Tensor, tokens: int, chunk: int, temperature: float) -> None:
        self.hidden, self.weight, self.temperature = hidden, weight, temperature
        shape = (min(chunk, tokens), weight.shape[0])
        self._wide = torch.empty(shape, dtype=torch.float32, device=hidden.device)
        self._second: Tensor | None = None
        self._narrow = self._wide if hidden.dtype == torch.float32 else hidden.new_empty(shape)

    def shifted(self, part: slice) -> Tensor:
        """Logits of a chunk less their maximum, in fp32."""
        hidden = self.hidden[part]
        wide, narrow = self._wide[: len(hidden)], self._narrow[: len(hidden)]
        torch.mm(hidden, self.weight.T, out=narrow)
        if narrow is not wide:
            wide.copy_(narrow)
        if self.temperature != 1:
            wide.div_(self.temperature)
        return wide.sub_(wide.amax(-1, keepdim=True))

    def exp(self, z: Tensor) -> Tensor:
        """e^z, beside z."""
        if self._second is None:
            self._second = torch.empty_like(self._wide)
        return torch.exp(z, out=self._second[: len(z)])

    def narrow(self, grad: Tensor) -> Tensor:
        """A gradient in the type of the model."""
        return grad if self._narrow is self._wide else self._narrow[: len(grad)].copy_(grad)


def _reduce(space: _Workspace, part: slice, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs and entropies of a chunk in one pass; also log Z and e^z, z being logits less their maximum and Z the
    sum of e^z.  log p_y = z_y - log Z,  H = log Z - sum(e^z z) / Z.
    """
    z = space.shifted(part)
    exp = space.exp(z)
    total = exp.sum(-1)
    log_total = total.log()
    at_target = z.gather(1, targets[part, None]).squeeze(1)
    return at_target - log_total, log_total - torch.linalg.vecdot(exp, z) / total, log_total, exp


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # an entropy that is only shown costs nothing in the backward pass
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy, log_total = torch.empty_like(logprobs), torch.empty_like(logprobs)
        space = _Workspace(hidden, weight, len(targets), chunk, temperature)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logprobs[part], entropy[part], log_total[part], _ = _reduce(space, part, targets)
        ctx.save_for_backward(hidden, weight, targets, log_total, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, log_total, entropy = ctx.saved_tensors
        by_logprobs, by_entropy = grads
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        space = _Workspace(hidden, weight, len(targets), ctx.chunk, ctx.temperature)
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            z, one_over_total = space.shifted(part), log_total[part, None].neg().exp()
            # d log p_y / dz = onehot(y) - p;  dH / dz = -p (log p + H)
            if by_entropy is None:
                grad = z.exp_().mul_(-by_logprobs[part, None] * one_over_total)  # type: ignore[index]
            else:
                p = space.exp(z).mul_(one_over_total)
                grad = z.add_((entropy - log_total)[part, None]).mul_(-by_entropy[part, None])
                grad = (grad if by_logprobs is None else grad.sub_(by_logprobs[part, None])).mul_(p)
            if by_logprobs is not None:
                grad.scatter_add_(1, targets[part, None], by_logprobs[part, None])
            gradients.add(space, grad, part)
        return (*gradients.cast(), None, None, None)


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
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        space = _Workspace(hidden, weight, len(targets), chunk, temperature)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logprobs[part], entropy[part], log_total, exp = _reduce(space, part, targets)
            wanted = coefficients[part, None]
            grad = exp.mul_(-wanted * log_total.neg().exp()[:, None]).scatter_add_(1, targets[part, None], wanted)
            gradients.add(space, grad, part)
        ctx.save_for_backward(coefficients, *gradients.cast())
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        coefficients, grad_hidden, grad_weight = ctx.saved_tensors
        square = coefficients.square().sum()
        multiple = (grads[0] * coefficients).sum() / torch.where(square > 0, square, 1.0)
        hidden, weight = (None if grad is None else grad * multiple for grad in (grad_hidden, grad_weight))
        return hidden, weight, None, None, None, None


class _Gradients:
    """Gradients by hidden, in its own type, and by the weight, added up in fp32; None where not needed."""

    def __init__(self, hidden: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> None:
        self.dtype = weight.dtype
        self.by_hidden = torch.empty_like(hidden) if needed[0] else None
        self.by_weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None

    def add(self, space: _Workspace, grad: Tensor, part: slice) -> None:
        """Carry on a chunk's gradient by its logits."""
        if space.temperature != 1:
            grad.div_(space.temperature)
        grad = space.narrow(grad)
        if self.by_hidden is not None:
            torch.mm(grad, space.weight, out=self.by_hidden[part])
        if self.by_weight is not None and grad.dtype == torch.float32:
            self.by_weight.addmm_(grad.T, space.hidden[part])
        elif self.by_weight is not None:
            self.by_weight += grad.T @ space.hidden[part]

    def cast(self) -> tuple[Tensor | None, Tensor | None]:
        """Both, in the types of what they are gradients of."""
        return self.by_hidden, None if self.by_weight is None else self.by_weight.to(self.dtype)


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
    chunk = chunk or max(1, CHUNK_LOGITS.get(hidden.device.type, 1 << 25) // weight.shape[0])
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
            raise ConfigError("the model's language-model head has a bias, which the trainer does not compute")
        self.weight: nn.Parameter = head.weight

    def forward(
        self, hidden: Tensor, targets: Tensor, temperature: float = 1.0, coefficients: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `chunked_logprobs`."""
        return chunked_logprobs(hidden, self.weight, targets, temperature, coefficients=coefficients)
