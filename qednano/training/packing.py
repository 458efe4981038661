"""Documents to rows to micro-batches, with no padding and nothing shared between documents.

A *document* is one prompt with one completion. *Best-fit* packing, each document into the fullest row that still
holds it, says how few micro-batches a step needs; documents are then spread over them by cost, which is quadratic in
their length. Inside a micro-batch documents lie end to end in one flat row, so no padding exists; positions start at
0 in each document, and `attention` never crosses their boundaries.
This module knows nothing of models, losses or tokenizers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from qednano.errors import DataError


@dataclass(frozen=True)
class Document:
    """Token ids and, per token, how much predicting it counts: 0 for the prompt.

    `fields` holds further numbers per token (behaviour log-probs, advantages); `index` says which sample it is.
    """

    tokens: Sequence[int]
    weights: Sequence[float]
    fields: dict[str, Sequence[float]] = field(default_factory=dict)
    index: int = 0

    def __post_init__(self) -> None:
        lengths = {len(self.weights), *(len(values) for values in self.fields.values())}
        if len(self.tokens) == 0 or lengths != {len(self.tokens)}:
            raise DataError(
                f"document {self.index} has {len(self.tokens)} tokens but {sorted(lengths)} weights or fields; "
                "every token needs one of each, and a document needs a token"
            )


@dataclass(frozen=True)
class MicroBatch:
    """Documents end to end. T tokens, N of them predicted with a weight that isn't 0.

    input_ids, position_ids: [1, T]; lengths: of the documents, in order; predictors: [N] positions in 0..T-1 whose
    hidden state predicts targets [N]; weights [N]; sample [N]: which document (`Document.index`); fields: [N] each.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    predictors: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    sample: torch.Tensor
    fields: dict[str, torch.Tensor]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return self.input_ids.shape[1]

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        fields = {name: value.to(device) for name, value in self.fields.items()}
        return MicroBatch(**moved, lengths=self.lengths, fields=fields)


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of documents per row, no row longer than `capacity`. Deterministic.

    Raises DataError for a document longer than a row. Source: Ding et al. 2024, arXiv 2404.10830 (Best-fit Packing).
    """
    rows: list[list[int]] = []
    rooms: list[list[int]] = [[] for _ in range(capacity + 1)]  # rooms[r]: rows with r tokens left
    largest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for index in largest_first:
        length = lengths[index]
        if not 0 < length <= capacity:
            raise DataError(f"document {index} has {length} tokens; a row holds 1 to {capacity} (sequenceLength)")
        room = next((left for left in range(length, capacity) if rooms[left]), capacity)
        if room == capacity:
            row = len(rows)
            rows.append([])
        else:
            row = rooms[room].pop()
        rows[row].append(index)
        rooms[room - length].append(row)
    return rows


def deal(
    lengths: Sequence[int],
    *,
    sequence_length: int,
    micro_batch_tokens: int,
    ranks: int = 1,
    cost: Callable[[int], float] = float,
) -> list[list[list[int]]]:
    """For each rank its micro-batches, each a list of document indices.

    All ranks get equally many micro-batches (possibly empty ones), since collectives inside forward and backward
    must match. There are as few as best-fit packing needs; documents are spread over them by `cost` (of a document
    of so many tokens), the dearest first, and micro-batches of like cost run at the same time. A micro-batch holds
    at most `micro_batch_tokens`, or one row of `sequence_length` where that is more.
    """
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is not None and lengths[longest] > sequence_length:
        raise DataError(
            f"document {longest} has {lengths[longest]} tokens; a row holds {sequence_length} (sequenceLength)"
        )
    capacity = max(sequence_length, micro_batch_tokens)
    rows = pack(lengths, capacity)
    costs = [cost(length) for length in lengths]
    count = max(1, -(-len(rows) // ranks)) * ranks
    micros = _spread(lengths, costs, capacity, count) or rows + [[] for _ in range(count - len(rows))]
    micros.sort(key=lambda micro: -sum(costs[index] for index in micro))
    rounds = [micros[start : start + ranks] for start in range(0, count, ranks)]
    # Every other round is dealt backwards, so that no rank always has the dearest micro-batch.
    dealt = [(round_ if turn % 2 == 0 else round_[::-1]) for turn, round_ in enumerate(rounds)]
    return [[sorted(round_[rank]) for round_ in dealt] for rank in range(ranks)]


def _spread(lengths: Sequence[int], costs: Sequence[float], capacity: int, count: int) -> list[list[int]] | None:
    """Longest-processing-time-first: each document to the cheapest of `count` micro-batches with room for it; None
    when one finds no room."""
    micros: list[list[int]] = [[] for _ in range(count)]
    room = [capacity] * count
    cheapest = [(0.0, micro) for micro in range(count)]
    for index in sorted(range(len(lengths)), key=lambda index: (-costs[index], index)):
        full = []
        while cheapest and room[cheapest[0][1]] < lengths[index]:
            full.append(heapq.heappop(cheapest))
        if not cheapest:
            return None
        load, micro = heapq.heappop(cheapest)
        micros[micro].append(index)
        room[micro] -= lengths[index]
        for entry in (*full, (load + costs[index], micro)):
            heapq.heappush(cheapest, entry)
    return micros


def collate(documents: Sequence[Document], field_names: Sequence[str] = ()) -> MicroBatch:
    """Lay documents end to end. With none, one token of weight 0: it keeps a rank in step with the others."""
    documents = documents or [Document([0], [0.0], {name: [0.0] for name in field_names})]
    lengths = [len(document.tokens) for document in documents]
    tokens = np.concatenate([np.asarray(document.tokens, dtype=np.int64) for document in documents])
    weights = np.concatenate([np.asarray(document.weights, dtype=np.float64) for document in documents])
    starts = np.cumsum([0, *lengths[:-1]])
    predicted = weights != 0
    predicted[starts] = False  # nobody predicts a document's first token
    places = np.flatnonzero(predicted)
    fields = {
        name: np.concatenate([np.asarray(document.fields[name], dtype=np.float64) for document in documents])[places]
        for name in field_names
    }
    return MicroBatch(
        input_ids=torch.from_numpy(tokens)[None],
        position_ids=torch.from_numpy(np.arange(len(tokens)) - np.repeat(starts, lengths))[None],
        lengths=tuple(lengths),
        predictors=torch.from_numpy(places - 1),
        targets=torch.from_numpy(tokens[places]),
        weights=torch.from_numpy(weights[places].astype(np.float32)),
        sample=torch.from_numpy(np.repeat([document.index for document in documents], lengths)[places]),
        fields={name: torch.from_numpy(values.astype(np.float32)) for name, values in fields.items()},
    )
