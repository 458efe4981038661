"""Sequence parallelism: a few ranks share one row, each with a slice of its tokens.

DeepSpeed-Ulysses (arXiv 2309.14509): everything but attention works on a rank's own tokens; around attention an
all-to-all trades the slice of tokens for a slice of heads and back, so that any attention function works unchanged.
DeepSpeed's own version asks for its own process groups and data loader; these are the two collectives it comes down to,
on torch.distributed, for gloo and NCCL alike.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qednano.errors import ConfigError
from qednano.training.attention import DocumentAttention


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share each row; `rank` is this process's place among them. A group of one needs no `group`."""

    size: int = 1
    rank: int = 0
    group: Any = None

    def padding(self, tokens: int) -> int:
        """Tokens to add so that all slices are equally long."""
        return -tokens % self.size

    def bounds(self, tokens: int) -> tuple[int, int]:
        """This rank's slice of a row of `tokens` tokens, a multiple of `size`."""
        width = tokens // self.size
        return self.rank * width, (self.rank + 1) * width


ALONE = SequenceGroup()


@functools.cache
def sequence_group(size: int) -> SequenceGroup:
    """The group of `size` neighbouring ranks that this rank belongs to. Every rank must call it."""
    if size == 1:
        return ALONE
    mine = ALONE
    for first in range(0, dist.get_world_size(), size):
        group = dist.new_group(list(range(first, first + size)))
        if first <= dist.get_rank() < first + size:
            mine = SequenceGroup(size, dist.get_rank() - first, group)
    return mine


def check_heads(heads: int, kv_heads: int, size: int) -> None:
    """Raise ConfigError unless the model's heads can be shared by `size` ranks."""
    if heads % size or (kv_heads % size and size % kv_heads):
        raise ConfigError(
            f"spec.trainer.sequenceParallel is {size}; the model has {heads} heads ({kv_heads} for keys and values), "
            f"which {size} processes can't share evenly. Use a divisor of both"
        )


class _AllToAll(torch.autograd.Function):
    """Chunk i of the first dimension goes to rank i; chunk i of the result came from rank i. Its own transpose."""

    @staticmethod
    def forward(ctx: Any, chunks: Tensor, group: Any) -> Tensor:
        ctx.group = group
        received = torch.empty_like(chunks, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, chunks.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(grads[0], ctx.group), None  # type: ignore[no-untyped-call]


def _to_heads(x: Tensor, sequence: SequenceGroup) -> Tensor:
    """[1, heads, T / size, D], own tokens, to [1, heads / size, T, D], own heads."""
    chunks = x[0].unflatten(0, (sequence.size, -1))
    received = _AllToAll.apply(chunks, sequence.group)  # type: ignore[no-untyped-call]  # [from, heads / size, T / size, D]
    return received.transpose(0, 1).flatten(1, 2)[None]


def _to_tokens(x: Tensor, sequence: SequenceGroup) -> Tensor:
    """[1, T, heads / size, D], own heads, to [1, T / size, heads, D], own tokens."""
    chunks = x[0].unflatten(0, (sequence.size, -1))
    received = _AllToAll.apply(chunks, sequence.group)  # type: ignore[no-untyped-call]  # [from, T / size, heads / size, D]
    return received.transpose(0, 1).flatten(1, 2)[None]


@dataclass(frozen=True)
class SharedAttention:
    """Attention over the whole row for slices of it: the inner one sees all tokens and some of the heads."""

    inner: DocumentAttention
    sequence: SequenceGroup

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query [1, heads, T / size, D], key and value [1, kv_heads, T / size, D] to [1, T / size, heads, D]."""
        size = self.sequence.size
        if key.shape[1] % size:  # fewer key-value heads than ranks: each rank gets a copy of the one it needs
            copies = size // key.shape[1]
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
        q, k, v = (_to_heads(x, self.sequence) for x in (query, key, value))
        return _to_tokens(self.inner(q, k, v, scale), self.sequence)


class _Assemble(torch.autograd.Function):
    """Slices [..., n_r] of all ranks to the whole [..., N]. Every rank goes on to compute the same loss of the whole,
    so each takes the gradient of its own slice and nothing is summed."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, start: int, total: int, group: Any) -> Tensor:
        ctx.bounds = (start, start + mine.shape[-1])
        whole = mine.new_zeros((*mine.shape[:-1], total))
        whole[..., start : start + mine.shape[-1]] = mine
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        start, end = ctx.bounds
        return grads[0][..., start:end], None, None, None


def assemble(mine: Tensor, start: int, total: int, sequence: SequenceGroup) -> Tensor:
    """The whole last dimension of `total` values, of which this rank has those from `start` on. Every rank calls it."""
    whole: Tensor = _Assemble.apply(mine, start, total, sequence.group)  # type: ignore[no-untyped-call]
    return whole
