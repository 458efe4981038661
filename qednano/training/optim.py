"""AdamW's parameter groups and the course of the learning rate: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Course = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) and its schedule. `total_steps` is where the course reaches 0."""

    learning_rate: float
    total_steps: int
    schedule: Course = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.98


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up to the peak, then the course down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, config.total_steps - config.warmup_steps)
    done = min(1.0, done)
    share = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def parameter_groups(parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: norms and biases (one-dimensional) go without. Empty groups are left out."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in parameters:
        if parameter.requires_grad:
            # ZeRO-3 has emptied the parameter already; its true shape is in ds_shape.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (decayed if len(shape) >= 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that leaves weights and moments untouched when any rank's gradients are not finite.

    It guards in the optimizer since that is the one place every ZeRO stage and precision comes through. `refuse`
    makes the next steps no-ops too (the loss was not finite); `refused` says whether the last step was one.
    `max_norm` clips the global norm here, for engines that leave clipping to us; `norm` is the last one seen.
    `global_norm` gives the norm of all gradients where an engine has computed it: ZeRO steps its groups one by one,
    and they must be refused together.
    """

    refuse: bool = False
    refused: bool = False
    max_norm: float | None = None
    norm: float = math.nan
    global_norm: Callable[[], float | Tensor | None] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update, or none."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.refuse or not self._finite(grads):
            self.refused = True
            return
        if self.max_norm is not None and self.norm > self.max_norm:
            torch._foreach_mul_(grads, self.max_norm / (self.norm + 1e-6))
        super().step(closure)

    def _finite(self, grads: list[Tensor]) -> bool:
        if self.global_norm is not None:
            known = self.global_norm()
            self.norm = math.nan if known is None else float(known)
            return math.isfinite(self.norm) and self.norm >= 0  # DeepSpeed says -1 for what is not finite
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) if grads else torch.zeros(())
        self.norm = float(norm)
        return _finite_on_all_ranks(norm)

    def prepare(self, parameters: Iterable[Tensor]) -> None:
        """Make the moments (zeros) of parameters that have none, as the first step would."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def _finite_on_all_ranks(value: Tensor) -> bool:
    bad = (~torch.isfinite(value)).float()
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)
    return not bool(bad)
