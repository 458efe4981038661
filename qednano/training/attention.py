"""Attention that never crosses documents, for rows in which documents lie end to end.

Four ways to the same result, chosen by name (`spec.trainer.attention`):

- ``Segments`` (CPU, and GPUs as well): documents of similar length are gathered into batches, scaled-dot-product
  attention runs causally inside each document, and results are put back. Cost is the sum of the documents' lengths
  squared; no mask exists, so nothing can leak through one.
- ``Flash``: FlashAttention's variable-length kernel, which PyTorch brings along, with the documents' boundaries. GPUs.
- ``Flex``: FlexAttention with a block-sparse mask; compiled on GPUs.
- ``BlockMask``: one dense block-diagonal causal mask over the row; quadratic in the row, kept as the plain statement
  of what the others compute.

A prompt that several documents share is in the row once. The masks let what follows it see it; the other two ways put
its queries, keys and values into each of its documents, so that only attention itself computes it again.

The model calls one function; which way it goes is an object made for each micro-batch, passed to the model's forward.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, scaled_dot_product_attention

from qednano.errors import ConfigError
from qednano.training.packing import Layout

IMPLEMENTATION = "qednano_documents"  # the name under which transformers knows the function
SEGMENTS, FLASH, FLEX, BLOCK_MASK = "Segments", "Flash", "Flex", "BlockMask"
_NOT_COMPUTED = {  # by the names under which transformers hands them to an attention function
    "sliding_window": "a sliding window",
    "softcap": "a soft cap on its scores",
    "s_aux": "attention sinks",
}
_FLEX_BLOCK = 128  # tokens of a block of FlexAttention's mask, as PyTorch has it
_SHORTEST_SHARE = 0.5  # documents shorter than this share of a batch's longest start a new batch


class DocumentAttention(Protocol):
    """Causal attention within each document of one row."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query [1, heads, T, D], key and value [1, kv_heads, T, D] to [1, T, heads, D]."""


class _Gather(torch.autograd.Function):
    """Row [T, ...] to places [S, ...]. The gradient of a token is the sum over its places."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return row.index_select(0, places.token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        places, (grad,) = ctx.places, grads
        if places.copies is None:
            return grad.index_select(0, places.home), None
        rows = embedding_bag(places.copies, grad.flatten(1), places.first_copy, mode="sum")
        return rows.view(-1, *grad.shape[1:]), None


class _PutBack(torch.autograd.Function):
    """Places [S, ...] to the row [T, ...]; what nobody takes from there gets no gradient."""

    @staticmethod
    def forward(ctx: Any, placed: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return placed.index_select(0, places.home)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        places = ctx.places
        return grads[0].index_select(0, places.token).masked_fill_(places.unread[:, None, None], 0), None


@dataclass(frozen=True)
class Places:
    """Where a row's tokens are put for attention: a token of a shared prompt into each of its documents.

    token [S]: row token of each place (0 where padding); home [T]: the place of each token that its result is taken
    from; unread [S] bool: all others. With shared prompts, copies: the places of token 0, of token 1, …, and
    first_copy [T]: where those of each token begin.
    """

    token: Tensor
    home: Tensor
    unread: Tensor
    copies: Tensor | None = None
    first_copy: Tensor | None = None

    def gather(self, row: Tensor) -> Tensor:
        """[T, ...] to [S, ...]."""
        found: Tensor = _Gather.apply(row, self)  # type: ignore[no-untyped-call]
        return found

    def put_back(self, placed: Tensor) -> Tensor:
        """[S, ...] to [T, ...]."""
        found: Tensor = _PutBack.apply(placed, self)  # type: ignore[no-untyped-call]
        return found


def places(token: Tensor, padding: Tensor, tokens: int, *, copied: bool, device: torch.device | None) -> Places:
    """Of a row of `tokens` tokens, by the token of each place. `copied`: some tokens have more than one."""
    real = (~padding).nonzero().squeeze(1)
    home = torch.empty(tokens, dtype=torch.long)
    home[token[real].flip(0)] = real.flip(0)  # the first of several places is written last
    unread = torch.ones_like(padding)
    unread[home] = False
    if not copied:
        return Places(token.to(device), home.to(device), unread.to(device))
    copies = real[torch.argsort(token[real], stable=True)]
    counts = torch.bincount(token[real], minlength=tokens)
    first_copy = counts.cumsum(0) - counts
    return Places(*(each.to(device) for each in (token, home, unread, copies, first_copy)))


@dataclass(frozen=True)
class Segments:
    """How a row's documents are gathered into padded buckets: (documents, width) of each, one after the other, and the
    places in them."""

    buckets: tuple[tuple[int, int], ...]
    places: Places


def segments(layout: Layout, device: torch.device | None = None) -> Segments:
    """Plan the buckets of a row."""
    origins, lengths = _unshared(layout)
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
    token, padding = origins[torch.cat(all_slots)], torch.cat(all_padding)
    buckets = tuple((len(group), lengths[group[0]]) for group in groups)
    return Segments(buckets, places(token, padding, sum(layout.lengths), copied=layout.shared, device=device))


def _unshared(layout: Layout) -> tuple[Tensor, list[int]]:
    """All documents end to end, shared prompts in each of them: the row token of each token; the documents' lengths."""
    pieces = torch.arange(sum(layout.lengths)).split(list(layout.lengths))
    documents = layout.documents()
    origins = torch.cat([pieces[piece] for document in documents for piece in document])
    return origins, [sum(layout.lengths[piece] for piece in document) for document in documents]


@dataclass(frozen=True)
class SegmentAttention:
    """Batches of documents of like length, each causal."""

    plan: Segments

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        plan = self.plan
        gathered = [plan.places.gather(x[0].transpose(0, 1)) for x in (query, key, value)]
        outputs = []
        offset = 0
        for bucket in plan.buckets:
            size = bucket[0] * bucket[1]
            q, k, v = (x[offset : offset + size].unflatten(0, bucket).transpose(1, 2) for x in gathered)
            out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            outputs.append(out.transpose(1, 2).flatten(0, 1))
            offset += size
        slotted = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return plan.places.put_back(slotted)[None]


@dataclass(frozen=True)
class BlockMaskAttention:
    """One dense mask over the row."""

    mask: Tensor

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        out = scaled_dot_product_attention(query, key, value, attn_mask=self.mask, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)


@dataclass(frozen=True)
class FlashDocuments:
    """The variable-length kernel. boundaries [documents + 1] int32: where each document begins, and the end of all;
    shared prompts are put into each document first."""

    boundaries: Tensor
    longest: int
    places: Places | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if self.places is not None:
            q, k, v = (self.places.gather(x) for x in (q, k, v))
        ends, most = self.boundaries, self.longest
        out = varlen_attn(q, k, v, ends, ends, most, most, scale=scale, window_size=(-1, 0), enable_gqa=True)
        assert isinstance(out, Tensor)
        return (out if self.places is None else self.places.put_back(out))[None]


def _flash(layout: Layout, device: torch.device) -> FlashDocuments:
    origins, lengths = _unshared(layout)
    boundaries = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    if not layout.shared:
        return FlashDocuments(boundaries, max(lengths))
    padding = torch.zeros(len(origins), dtype=torch.bool)
    put = places(origins, padding, sum(layout.lengths), copied=True, device=device)
    return FlashDocuments(boundaries, max(lengths), put)


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


def _piece_of(layout: Layout, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Of each token its piece, and the piece of the prompt that it continues (its own where there is none)."""
    lengths = torch.tensor(layout.lengths)
    own = torch.arange(len(lengths))
    behind = torch.tensor(layout.behind or [-1] * len(lengths))
    both = (own, torch.where(behind < 0, own, behind))
    piece, prompt = (torch.repeat_interleave(each, lengths).to(device) for each in both)
    return piece, prompt


def block_mask(layout: Layout, device: torch.device | None = None) -> Tensor:
    """[1, 1, T, T] bool: True where the query (row) may see the key (column): the same document, not later."""
    piece, prompt = _piece_of(layout, device)
    same = (piece[:, None] == piece[None, :]) | (prompt[:, None] == piece[None, :])
    return (same & torch.ones_like(same).tril())[None, None]


def seen_blocks(layout: Layout, size: int) -> tuple[Tensor, Tensor]:
    """For blocks of `size` tokens, [query blocks, key blocks] bool: whether some query of the one sees some key of the
    other; whether all see all, which is said of key blocks of one piece only: of others the mask says it anyway."""
    ends = list(accumulate(layout.lengths))
    count = -(-ends[-1] // size)
    some = torch.zeros(count, count, dtype=torch.bool)
    for number, end in enumerate(ends):
        rows = slice((end - layout.lengths[number]) // size, (end - 1) // size + 1)
        some[rows, rows] = True
        if layout.behind and (prompt := layout.behind[number]) >= 0:
            some[rows, (ends[prompt] - layout.lengths[prompt]) // size : (ends[prompt] - 1) // size + 1] = True
    # Of each token the two pieces it may see; what follows the row's end sees none and is none.
    blocks = [
        nn.functional.pad(x, (0, count * size - ends[-1]), value=-1).view(count, size) for x in _piece_of(layout, None)
    ]
    of_one_piece = (blocks[0] == blocks[0][:, :1]).all(-1)
    every = torch.zeros_like(some)
    for candidate in (block[:, :1] for block in blocks):
        seen_by_all = ((blocks[0] == candidate) | (blocks[1] == candidate)).all(-1)
        every |= seen_by_all[:, None] & of_one_piece & (candidate == blocks[0][:, 0])
    return some.tril(), every.tril(-1)


def _flex_mask(layout: Layout, device: torch.device) -> Any:
    """What `create_block_mask` makes of the function below, without its mask of all tokens by all tokens."""
    from torch.nn.attention.flex_attention import BlockMask

    piece, prompt = _piece_of(layout, device)

    def same_and_not_later(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((piece[query] == piece[key]) | (prompt[query] == piece[key])) & (query >= key)

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Of each query block how many key blocks are set, and their numbers, these first."""
        order = blocks.int().argsort(dim=-1, descending=True, stable=True)
        return tuple(each.to(device, torch.int32)[None, None] for each in (blocks.sum(-1), order))  # type: ignore[return-value]

    total = len(piece)
    some, every = seen_blocks(layout, _FLEX_BLOCK)
    return BlockMask.from_kv_blocks(
        *listed(some & ~every),
        *listed(every),
        BLOCK_SIZE=_FLEX_BLOCK,
        mask_mod=same_and_not_later,
        seq_lengths=(total, total),
    )


def document_attention(name: str, layout: Layout, device: torch.device) -> DocumentAttention:
    """Attention of the given way for a row of this layout."""
    if name == SEGMENTS:
        return SegmentAttention(segments(layout, device))
    if name == FLASH:
        return _flash(layout, device)
    if name == FLEX:
        return FlexDocuments(_flex_mask(layout, device))
    if name == BLOCK_MASK:
        return BlockMaskAttention(block_mask(layout, device))
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
    **further: Any,
) -> tuple[Tensor, None]:
    assert documents is not None, "pass documents= to the model's forward"
    if asked := [name for name in _NOT_COMPUTED if further.get(name) is not None]:
        raise ConfigError(
            f"the model's attention has {', '.join(_NOT_COMPUTED[name] for name in asked)}, which the trainer does not "
            "compute: it would train another function than servers compute. Give spec.model a model without"
        )
    return documents(query, key, value, scaling), None


def register() -> None:
    """Make the function known to transformers; masks are built here, not by transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    return None
