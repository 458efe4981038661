"""What a step costs in floating-point operations: to share work evenly, and to say how well a GPU is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_PEAKS = {  # dense bf16 FLOP/s by NVIDIA's and AMD's data sheets; the first name found in the device's name counts
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of a GPU in FLOP/s by the name torch gives it; None for one that isn't in the table."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


@dataclass(frozen=True)
class ModelFlops:
    """Operations of one forward pass: `per_token` (matrices of the blocks), `per_pair` (one query with one key it may
    see, all layers), `per_target` (the head, for a token whose log-prob is asked)."""

    per_token: float
    per_pair: float
    per_target: float
    trained: bool = True  # False: weights are frozen (adapters), their gradients are not computed

    def forward(self, length: int, targets: int = 0, seen: int = 0) -> float:
        """A document of `length` tokens under causal attention, `targets` of them predicted; or what goes on behind a
        shared prompt of `seen` tokens."""
        pairs = length * seen + length * (length + 1) / 2
        return self.per_token * length + self.per_pair * pairs + self.per_target * targets

    def training(self, lengths: Sequence[int], targets: int, seen: Sequence[int] = ()) -> float:
        """Forward and backward: the backward pass costs twice the forward (once where weights are frozen).

        `seen`: as in `forward`, for each length.

        Activations computed a second time don't count, so that the figure is MFU (model FLOPs utilisation as in PaLM,
        arXiv 2204.02311, appendix B, with attention counted for the causal half only): MFU = this / seconds / peak.
        """
        pieces = zip(lengths, seen or [0] * len(lengths), strict=True)
        forward = sum(self.forward(length, seen=prompt) for length, prompt in pieces) + self.per_target * targets
        return forward * (3 if self.trained else 2)


def model_flops(config: Any, trained: bool = True) -> ModelFlops:
    """For a dense transformer with gated MLP, from its Hugging Face configuration. A multiply-add is two operations."""
    heads, hidden, layers = config.num_attention_heads, config.hidden_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    matrices = hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * config.intermediate_size
    return ModelFlops(
        per_token=2.0 * layers * matrices,
        per_pair=4.0 * layers * heads * head_dim,  # scores and their sum over values
        per_target=2.0 * hidden * config.vocab_size,
        trained=trained,
    )
