"""Documents to rows to micro-batches, with no padding and nothing shared between documents.

A *document* is one prompt with one completion. *Best-fit* packing puts each document into the fullest row that
still holds it. Rows are dealt to ranks and grouped into micro-batches; inside a micro-batch documents lie end to
end in one flat row, positions start at 0 in each document, and `attention` never crosses their boundaries.
This module knows nothing of models, losses or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        if not self.tokens or lengths != {len(self.tokens)}:
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
    lengths: Sequence[int], *, sequence_length: int, micro_batch_tokens: int, ranks: int = 1
) -> list[list[list[int]]]:
    """For each rank its micro-batches, each a list of document indices.

    All ranks get equally many micro-batches (possibly empty ones), since collectives inside forward and backward
    must match. A micro-batch holds as many whole rows as fit `micro_batch_tokens`, at least one.
    """
    rows = pack(lengths, sequence_length)
    size = {row: sum(lengths[index] for index in members) for row, members in enumerate(rows)}
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for row in sorted(size, key=lambda row: (-size[row], row)):
        lightest = min(range(ranks), key=lambda rank: (loads[rank], rank))
        loads[lightest] += size[row]
        shares[lightest].append(row)
    dealt: list[list[list[int]]] = []
    for share in shares:
        micros: list[list[int]] = []
        filled = micro_batch_tokens
        for row in share:
            if filled + size[row] > micro_batch_tokens:
                micros.append([])
                filled = 0
            micros[-1].extend(rows[row])
            filled += size[row]
        dealt.append([sorted(micro) for micro in micros])
    most = max(1, *(len(micros) for micros in dealt))
    return [micros + [[]] * (most - len(micros)) for micros in dealt]


def collate(documents: Sequence[Document], field_names: Sequence[str] = ()) -> MicroBatch:
    """Lay documents end to end. With none, one token of weight 0: it keeps a rank in step with the others."""
    documents = documents or [Document([0], [0.0], {name: [0.0] for name in field_names})]
    tokens: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    sample: list[int] = []
    fields: dict[str, list[float]] = {name: [] for name in field_names}
    for document in documents:
        start = len(tokens)
        tokens.extend(document.tokens)
        positions.extend(range(len(document.tokens)))
        for place in range(1, len(document.tokens)):
            if document.weights[place] != 0:
                predictors.append(start + place - 1)
                targets.append(document.tokens[place])
                weights.append(document.weights[place])
                sample.append(document.index)
                for name, values in fields.items():
                    values.append(document.fields[name][place])
    return MicroBatch(
        input_ids=torch.tensor([tokens]),
        position_ids=torch.tensor([positions]),
        lengths=tuple(len(document.tokens) for document in documents),
        predictors=torch.tensor(predictors, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        weights=torch.tensor(weights, dtype=torch.float32),
        sample=torch.tensor(sample, dtype=torch.long),
        fields={name: torch.tensor(values, dtype=torch.float32) for name, values in fields.items()},
    )
