"""Low-rank adapters (arXiv 2106.09685): put into a model by peft, merged into plain weights by name.

An adapted layer `x` has parameters `x.base_layer.weight`, `x.lora_A.default.weight` [r, in] and
`x.lora_B.default.weight` [out, r]; what leaves the trainer is `x.weight` = base + alpha / r * B A.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qednano.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE, _A, _B = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class LoraConfig:
    """Rank, scaling and places of the adapters; see `qednano.api.engine.Lora`."""

    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


def add_adapters(causal_lm: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Freeze the model and put an adapter beside each target; the same seed gives the same adapters on every rank."""
    import peft

    wanted = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    causal_lm.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # inject_adapter_in_model leaves the model's own class in place, so that nothing else has to know of it.
            peft.inject_adapter_in_model(wanted, causal_lm)
        except ValueError as error:
            raise ConfigError(
                f"spec.trainer.lora.targets {list(config.targets)} don't fit the model: {error}"
            ) from None
    for name, parameter in causal_lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.to(causal_lm.dtype)


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it was before adapters were put into it, while the block runs.

    Not through peft's `enable_adapters`: it also switches `requires_grad`, on which DeepSpeed's hooks hang.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for module in adapted:
        module._disable_adapters = True
    try:
        yield
    finally:
        for module in adapted:
            module._disable_adapters = False


def plain_name(name: str) -> str | None:
    """The Hugging Face name that a parameter's weight leaves under; None for an adapter's own."""
    if name.endswith((_A, _B)):
        return None
    return name.replace(_BASE, ".weight")


def adapters_of(name: str) -> tuple[str, str] | None:
    """Names of A and B of an adapted layer's base weight; None for another parameter."""
    if not name.endswith(_BASE):
        return None
    stem = name.removesuffix(_BASE)
    return stem + _A, stem + _B


def merged(base: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """base + scale * B A in the base's dtype, added up in fp32."""
    return (base.float() + scale * (b.float() @ a.float())).to(base.dtype)


def merge_into(weights: dict[str, Tensor], adapters: Mapping[str, Tensor], scale: float) -> None:
    """Add adapters (by their own names) to plain weights, in place."""
    for name in [name for name in adapters if name.endswith(_A)]:
        stem = name.removesuffix(_A)
        weights[f"{stem}.weight"] = merged(weights[f"{stem}.weight"], adapters[name], adapters[stem + _B], scale)
