"""Attention that never crosses documents, for rows in which documents lie end to end.

Three ways, chosen by name through transformers' attention interface:

- ``qednano_segments`` (CPU, and GPUs without flash-attn): documents of similar length are gathered into batches,
  scaled-dot-product attention runs causally inside each document, and results are put back. Cost is the sum of the
  documents' lengths squared; no mask exists, so nothing can leak through one.
- ``flash_attention_2``: the variable-length kernel with the documents' boundaries.
- ``qednano_block_mask``: one dense block-diagonal causal mask over the row; quadratic in the row, kept as the
  plain statement of what the other two compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SEGMENTS, BLOCK_MASK, FLASH = "qednano_segments", "qednano_block_mask", "flash_attention_2"
_SHORTEST_SHARE = 0.5  # documents shorter than this share of a batch's longest start a new batch


@dataclass(frozen=True)
class Segments:
    """How a row's documents are gathered into padded buckets: (documents, width) of each, one after the other.

    slots [S]: row token of each slot of all buckets (0 where padding); padding [S] bool; home [T]: slot of each token.
    """

    buckets: tuple[tuple[int, int], ...]
    slots: Tensor
    padding: Tensor
    home: Tensor


def segments(lengths: Sequence[int], device: torch.device | None = None) -> Segments:
    """Plan the buckets of a row whose documents have these lengths."""
    starts = [0, *accumulate(lengths)]
    longest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    for index in longest_first:
        if not groups or lengths[index] < _SHORTEST_SHARE * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(index)
    all_slots, all_padding = [], []
    for group in groups:
        steps = torch.arange(lengths[group[0]])
        padding = steps[None, :] >= torch.tensor([lengths[index] for index in group])[:, None]
        slots = torch.tensor([starts[index] for index in group])[:, None] + steps
        all_slots.append(slots.masked_fill(padding, 0).flatten())
        all_padding.append(padding.flatten())
    slots, padding = torch.cat(all_slots), torch.cat(all_padding)
    home = torch.empty(starts[-1], dtype=torch.long)
    real = (~padding).nonzero().squeeze(1)
    home[slots[real]] = real
    buckets = tuple((len(group), lengths[group[0]]) for group in groups)
    return Segments(buckets, slots.to(device), padding.to(device), home.to(device))


class _Gather(torch.autograd.Function):
    """Row [T, ...] to the slots of all buckets [S, ...]; each token has one slot, so backward is a gather too."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, slots: Tensor, home: Tensor) -> Tensor:
        ctx.save_for_backward(home)
        return row.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (home,) = ctx.saved_tensors
        return grads[0].index_select(0, home), None, None


class _PutBack(torch.autograd.Function):
    """Slots [S, ...] to the row [T, ...]; padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, slotted: Tensor, slots: Tensor, home: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(slots, padding)
        return slotted.index_select(0, home)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        slots, padding = ctx.saved_tensors
        return grads[0].index_select(0, slots).masked_fill_(padding[:, None, None], 0), None, None, None


def _segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, T, D], key and value [1, kv_heads, T, D] to [1, T, heads, D]."""
    assert segments is not None, "pass segments= to the model's forward"
    tokens_first = (x[0].transpose(0, 1) for x in (query, key, value))
    gathered = [_Gather.apply(x, segments.slots, segments.home) for x in tokens_first]  # type: ignore[no-untyped-call]
    outputs = []
    offset = 0
    for bucket in segments.buckets:
        size = bucket[0] * bucket[1]
        q, k, v = (x[offset : offset + size].unflatten(0, bucket).transpose(1, 2) for x in gathered)
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
        offset += size
    slotted = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    row = _PutBack.apply(slotted, segments.slots, segments.home, segments.padding)  # type: ignore[no-untyped-call]
    return row[None], None


def block_mask(lengths: Sequence[int], device: torch.device | None = None) -> Tensor:
    """[1, 1, T, T] bool: True where the query (row) may see the key (column): same document, not later."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    same = document[:, None] == document[None, :]
    return (same & torch.ones_like(same).tril())[None, None].to(device)


def _block_mask_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    document_mask: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=document_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2), None


def register() -> None:
    """Make both functions known to transformers; their masks are built here, not by transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(SEGMENTS, _segment_attention)
    AttentionInterface.register(BLOCK_MASK, _block_mask_attention)
    for name in (SEGMENTS, BLOCK_MASK):
        AttentionMaskInterface.register(name, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def best_attention(device: torch.device) -> str:
    """The fastest of the three that works on this device."""
    if device.type == "cuda":
        from transformers.utils.import_utils import is_flash_attn_2_available

        if is_flash_attn_2_available():
            return FLASH
    return SEGMENTS


def attention_arguments(name: str, lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What to pass to the model's forward so that attention `name` keeps documents apart."""
    if name == SEGMENTS:
        return {"segments": segments(lengths, device)}
    if name == BLOCK_MASK:
        return {"document_mask": block_mask(lengths, device)}
    boundaries = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
    }
