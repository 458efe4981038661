"""The same layers with fewer activations kept: normalisation and gated MLP as functions that recompute the cheap part.

PyTorch's own keep every intermediate for the backward pass; these keep the inputs. Results agree to rounding.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


class _RMSNorm(torch.autograd.Function):
    """weight * (x / rms(x)) with the mean taken in fp32 (arXiv 1910.07467). Keeps x and 1 / rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(epsilon).rsqrt_().unsqueeze_(-1)
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        normed = x.float() * inverse
        grad = grads[0].float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight
        along = torch.linalg.vecdot(grad, normed).div_(x.shape[-1]).unsqueeze_(-1)
        return grad.sub_(normed.mul_(along)).mul_(inverse).to(x.dtype), grad_weight, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up (arXiv 2002.05202). Keeps gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (grad,) = grads
        grad_up = nn.functional.silu(gate).mul_(grad)
        # d silu(g) / dg = s (1 + g (1 - s)), as PyTorch's own kernel has it in one pass
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    found: Tensor = _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
    return found


def _mlp_forward(self: Any, x: Tensor) -> Tensor:
    found: Tensor = self.down_proj(_SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))  # type: ignore[no-untyped-call]
    return found


def make_thrifty(model: nn.Module) -> int:
    """Replace the forward of the layers that are known to be of these two kinds; how many were."""
    from transformers.activations import SiLUActivation
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

    replaced = 0
    for module in model.modules():
        if type(module) is Qwen3RMSNorm:
            module.forward = MethodType(_norm_forward, module)  # type: ignore[method-assign]
        elif type(module) is Qwen3MLP and isinstance(module.act_fn, SiLUActivation | nn.SiLU):
            module.forward = MethodType(_mlp_forward, module)  # type: ignore[method-assign]
        else:
            continue
        replaced += 1
    return replaced
