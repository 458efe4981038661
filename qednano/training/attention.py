"""Attention that never crosses documents, for rows in which documents lie end to end.

Four ways to the same result, chosen by name (`spec.trainer.attention`):

- ``Segments`` (CPU, and GPUs as well): documents of similar length are gathered into batches, scaled-dot-product
  attention runs causally inside each document, and results are put back. Cost is the sum of the documents' lengths
  squared; no mask exists, so nothing can leak through one.
- ``Flash``: FlashAttention's variable-length kernel, which PyTorch brings along, with the documents' boundaries. GPUs.
- ``Flex``: FlexAttention with a block-sparse mask; compiled on GPUs.
- ``BlockMask``: one dense block-diagonal causal mask over the row; quadratic in the row, kept as the plain statement
  of what the others compute.

The model calls one function; which way it goes is an object made for each micro-batch, passed to the model's forward.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qednano.errors import ConfigError

IMPLEMENTATION = "qednano_documents"  # the name under which transformers knows the function
SEGMENTS, FLASH, FLEX, BLOCK_MASK = "Segments", "Flash", "Flex", "BlockMask"
_SHORTEST_SHARE = 0.5  # documents shorter than this share of a batch's longest start a new batch


class DocumentAttention(Protocol):
    """Causal attention within each document of one row."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query [1, heads, T, D], key and value [1, kv_heads, T, D] to [1, T, heads, D]."""


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


@dataclass(frozen=True)
class SegmentAttention:
    """Batches of documents of like length, each causal."""

    plan: Segments

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        plan = self.plan
        tokens_first = (x[0].transpose(0, 1) for x in (query, key, value))
        gathered = [_Gather.apply(x, plan.slots, plan.home) for x in tokens_first]  # type: ignore[no-untyped-call]
        outputs = []
        offset = 0
        for bucket in plan.buckets:
            size = bucket[0] * bucket[1]
            q, k, v = (x[offset : offset + size].unflatten(0, bucket).transpose(1, 2) for x in gathered)
            out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            outputs.append(out.transpose(1, 2).flatten(0, 1))
            offset += size
        slotted = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return _PutBack.apply(slotted, plan.slots, plan.home, plan.padding)[None]  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class BlockMaskAttention:
    """One dense mask over the row."""

    mask: Tensor

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        out = scaled_dot_product_attention(query, key, value, attn_mask=self.mask, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)


@dataclass(frozen=True)
class FlashDocuments:
    """The variable-length kernel. boundaries [documents + 1] int32: where each document begins, and the row's end."""

    boundaries: Tensor
    longest: int

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        ends, most = self.boundaries, self.longest
        out = varlen_attn(q, k, v, ends, ends, most, most, scale=scale, window_size=(-1, 0), enable_gqa=True)
        assert isinstance(out, Tensor)
        return out[None]


@dataclass(frozen=True)
class FlexDocuments:
    """FlexAttention under a block mask."""

    mask: Any  # torch.nn.attention.flex_attention.BlockMask

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        attend = _flex(query.is_cuda)
        return attend(query, key, value, block_mask=self.mask, scale=scale, enable_gqa=True).transpose(1, 2)


@functools.cache
def _flex(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


def _document_of(lengths: Sequence[int], device: torch.device | None) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)


def block_mask(lengths: Sequence[int], device: torch.device | None = None) -> Tensor:
    """[1, 1, T, T] bool: True where the query (row) may see the key (column): same document, not later."""
    document = _document_of(lengths, device)
    same = document[:, None] == document[None, :]
    return (same & torch.ones_like(same).tril())[None, None]


def _flex_mask(lengths: Sequence[int], device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    document = _document_of(lengths, device)

    def same_and_not_later(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (document[query] == document[key]) & (query >= key)

    total = len(document)
    return create_block_mask(same_and_not_later, None, None, total, total, device=str(device))


def document_attention(name: str, lengths: Sequence[int], device: torch.device) -> DocumentAttention:
    """Attention of the given way for a row whose documents have these lengths."""
    if name == SEGMENTS:
        return SegmentAttention(segments(lengths, device))
    if name == FLASH:
        boundaries = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return FlashDocuments(boundaries, max(lengths))
    if name == FLEX:
        return FlexDocuments(_flex_mask(lengths, device))
    if name == BLOCK_MASK:
        return BlockMaskAttention(block_mask(lengths, device))
    raise ValueError(f"{name} is no way to compute attention")


def choose_attention(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """The way to go for a wanted name, Auto included; ConfigError where it can't work."""
    flash = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if wanted == FLASH and not flash:
        raise ConfigError(
            f"spec.trainer.attention is Flash, which needs a CUDA GPU and precision bf16; this is {device.type} with "
            f"{str(dtype).removeprefix('torch.')}. Use Auto or Segments"
        )
    if wanted != "Auto":
        return wanted
    return FLASH if flash else SEGMENTS


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    documents: DocumentAttention | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    assert documents is not None, "pass documents= to the model's forward"
    return documents(query, key, value, scaling), None


def register() -> None:
    """Make the function known to transformers; masks are built here, not by transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    return None
