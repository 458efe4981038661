"""Documents to rows to micro-batches, with no padding and nothing shared between documents.

A *document* is one prompt with one completion. Documents with the same prompt may share it: it is laid down once, and
each completion goes on behind it, so that a group of RL samples pays for its prompt once; a completion drawn twice is
there once, too, and predicted twice. *Best-fit* packing, each document into the fullest row that still holds it, says
how few micro-batches a step needs; documents are then spread over them by cost, which is quadratic in their length.
Inside a micro-batch documents lie end to end in one flat row, so no padding exists; positions start at 0 in each
document (behind a shared prompt: at its end), and `attention` never crosses their boundaries.
This module knows nothing of models, losses or tokenizers.
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from qednano.errors import DataError


@dataclass(frozen=True)
class Document:
    """Token ids and, per token, how much predicting it counts: 0 for the prompt.

    `fields` holds further numbers per token (behaviour log-probs, advantages); `index` says which sample it is.
    `prompt`: so many first tokens, all of weight 0, may be shared with documents that begin with the same ones.
    """

    tokens: Sequence[int]
    weights: Sequence[float]
    fields: dict[str, Sequence[float]] = field(default_factory=dict)
    index: int = 0
    prompt: int = 0

    def __post_init__(self) -> None:
        lengths = {len(self.weights), *(len(values) for values in self.fields.values())}
        if len(self.tokens) == 0 or lengths != {len(self.tokens)}:
            raise DataError(
                f"document {self.index} has {len(self.tokens)} tokens but {sorted(lengths)} weights or fields; "
                "every token needs one of each, and a document needs a token"
            )
        if self.prompt and (self.prompt >= len(self.tokens) or any(self.weights[: self.prompt])):
            raise DataError(
                f"document {self.index} has a prompt of {self.prompt} of its {len(self.tokens)} tokens; something must "
                "follow it, and its tokens must weigh 0"
            )


@dataclass(frozen=True)
class Layout:
    """Pieces of a row, end to end: whole documents, shared prompts and what goes on behind them.

    `lengths` of the pieces; `behind`: for each piece the earlier piece (a shared prompt) that it continues, or -1. All
    tokens of a piece see that prompt, and the piece itself causally. Empty `behind`: every piece is a document.
    """

    lengths: tuple[int, ...]
    behind: tuple[int, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether any prompt is shared."""
        return bool(self.behind)

    def documents(self) -> list[tuple[int, ...]]:
        """Of each document its one or two pieces, in the order of the row."""
        if not self.behind:
            return [(piece,) for piece in range(len(self.lengths))]
        prompts = set(self.behind)
        own = [piece for piece in range(len(self.lengths)) if piece not in prompts]
        return [(piece,) if self.behind[piece] < 0 else (self.behind[piece], piece) for piece in own]

    def seen(self) -> list[int]:
        """Of each piece how many tokens of a shared prompt it sees."""
        return [0 if at < 0 else self.lengths[at] for at in self.behind] or [0] * len(self.lengths)


@dataclass(frozen=True)
class MicroBatch:
    """Documents end to end. T tokens, N of them predicted with a weight that isn't 0.

    input_ids, position_ids: [1, T]; layout: which tokens of the row see one another; predictors: [N] positions in
    0..T-1 whose hidden state predicts targets [N]; weights [N]; sample [N]: which document (`Document.index`); fields:
    [N] each.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    layout: Layout
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
        return MicroBatch(**moved, layout=self.layout, fields=fields)

    def documents(self) -> list[torch.Tensor]:
        """The token ids of each document, its prompt included; documents that are alike once."""
        pieces = self.input_ids[0].split(list(self.layout.lengths))
        return [torch.cat([pieces[each] for each in document]) for document in self.layout.documents()]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of documents per row, no row longer than `capacity`. Deterministic.

    Raises DataError for a document longer than a row. Source: Ding et al. 2024, arXiv 2404.10830 (Best-fit Packing).
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (tokens left, row) in order: a search costs no more in longer rows
    largest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for index in largest_first:
        length = lengths[index]
        if not 0 < length <= capacity:
            raise DataError(f"document {index} has {length} tokens; a row holds 1 to {capacity} (sequenceLength)")
        fullest = bisect.bisect_left(open_rows, (length, -1))
        if fullest < len(open_rows):
            room, row = open_rows.pop(fullest)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        if room > length:
            bisect.insort(open_rows, (room - length, row))
    return rows


def deal(
    lengths: Sequence[int],
    *,
    sequence_length: int,
    micro_batch_tokens: int,
    ranks: int = 1,
    cost: Callable[[int], float] = float,
    bundles: Sequence[Sequence[int]] | None = None,
    prompts: Sequence[int] = (),
) -> list[list[list[int]]]:
    """For each rank its micro-batches, each a list of document indices.

    All ranks get equally many micro-batches (possibly empty ones), since collectives inside forward and backward
    must match. There are as few as best-fit packing needs; documents are spread over them by `cost` (of a document
    of so many tokens), the dearest first, and micro-batches of like cost run at the same time. A micro-batch holds
    at most `micro_batch_tokens`, or one row of `sequence_length` where that is more. The documents of each of
    `bundles` stay together and share their prompt, of so many tokens as `prompts` says of each document.
    """
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is not None and lengths[longest] > sequence_length:
        raise DataError(
            f"document {longest} has {lengths[longest]} tokens; a row holds {sequence_length} (sequenceLength)"
        )
    capacity = max(sequence_length, micro_batch_tokens)
    together = [[index] for index in range(len(lengths))] if bundles is None else bundles
    saved = [(len(bundle) - 1, prompts[bundle[0]]) if len(bundle) > 1 else (0, 0) for bundle in together]
    sizes = [sum(lengths[i] for i in bundle) - n * p for bundle, (n, p) in zip(together, saved, strict=True)]
    costs = [
        sum(cost(lengths[i]) for i in bundle) - (n * cost(p) if n else 0.0)
        for bundle, (n, p) in zip(together, saved, strict=True)
    ]
    rows = pack(sizes, capacity)
    count = max(1, -(-len(rows) // ranks)) * ranks
    micros = _spread(sizes, costs, capacity, count) or rows + [[] for _ in range(count - len(rows))]
    micros.sort(key=lambda micro: -sum(costs[index] for index in micro))
    rounds = [micros[start : start + ranks] for start in range(0, count, ranks)]
    # Every other round is dealt backwards, so that no rank always has the dearest micro-batch.
    dealt = [(round_ if turn % 2 == 0 else round_[::-1]) for turn, round_ in enumerate(rounds)]
    return [
        [sorted(index for unit in round_[rank] for index in together[unit]) for round_ in dealt]
        for rank in range(ranks)
    ]


def bundle(documents: Sequence[Document], most: int) -> list[list[int]]:
    """Indices of documents, those that share a prompt together: at most `most` tokens, or one document, in a bundle."""
    bundles: list[list[int]] = []
    open_bundles: dict[bytes, tuple[list[int], int]] = {}  # by prompt: the newest bundle and its tokens
    for index, document in enumerate(documents):
        length = len(document.tokens)
        if not document.prompt:
            bundles.append([index])
            continue
        key = _prompt_key(document)
        found, size = open_bundles.get(key, ([], 0))
        if found and size + length - document.prompt <= most:
            found.append(index)
            open_bundles[key] = (found, size + length - document.prompt)
        else:
            bundles.append([index])
            open_bundles[key] = (bundles[-1], length)
    return bundles


def _prompt_key(document: Document) -> bytes:
    return _bytes(document.tokens[: document.prompt])


def _bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype=np.int64).tobytes()


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


@dataclass(frozen=True)
class _Piece:
    """Tokens `start` to `end` of a document, behind the piece of that number (-1: behind nothing)."""

    document: Document
    start: int
    end: int
    behind: int = -1


def _pieces(documents: Sequence[Document], share: bool) -> tuple[list[_Piece], list[tuple[Document, int]]]:
    """What is laid down, and of each document the piece in which its last tokens are."""
    keys = [_prompt_key(document) if share and document.prompt else None for document in documents]
    count = Counter(keys)
    found: dict[tuple[bytes, bytes], int] = {}  # by prompt and what follows it: the piece
    pieces: list[_Piece] = []
    owners: list[tuple[Document, int]] = []

    def laid(what: tuple[bytes, bytes], piece: _Piece) -> int:
        if what not in found:
            found[what] = len(pieces)
            pieces.append(piece)
        return found[what]

    for document, key in zip(documents, keys, strict=True):
        if key is None or count[key] == 1:
            owners.append((document, len(pieces)))
            pieces.append(_Piece(document, 0, len(document.tokens)))
            continue
        prompt = laid((key, b""), _Piece(document, 0, document.prompt))
        own = _Piece(document, document.prompt, len(document.tokens), prompt)
        owners.append((document, laid((key, _bytes(document.tokens[document.prompt :])), own)))
    return pieces, owners


def collate(documents: Sequence[Document], field_names: Sequence[str] = (), share: bool = False) -> MicroBatch:
    """Lay documents end to end; with `share`, a prompt that several begin with only once, and so what follows it where
    that is the same too.

    With no documents, one token of weight 0: it keeps a rank in step with the others.
    """
    documents = documents or [Document([0], [0.0], {name: [0.0] for name in field_names})]
    pieces, owners = _pieces(documents, share)
    lengths = [piece.end - piece.start for piece in pieces]
    starts = np.cumsum([0, *lengths[:-1]])
    ends = starts + lengths
    behind = np.array([piece.behind for piece in pieces])
    tokens = np.concatenate([np.asarray(p.document.tokens[p.start : p.end], dtype=np.int64) for p in pieces])
    predictors = np.arange(len(tokens)) - 1
    predictors[starts] = np.where(behind < 0, -1, ends[behind] - 1)
    # Per token of each document's last piece, which several documents may have: where it is in the row.
    at = np.concatenate([np.arange(starts[piece], ends[piece]) for _, piece in owners])

    def joined(values: Callable[[Document], Sequence[float]]) -> np.ndarray:
        parts = [values(document)[pieces[piece].start :] for document, piece in owners]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])

    weights = joined(lambda document: document.weights)
    counted = np.flatnonzero((weights != 0) & (predictors[at] >= 0))  # nobody predicts a document's first token
    fields = {name: joined(lambda document, name=name: document.fields[name])[counted] for name in field_names}
    sample = np.repeat([document.index for document, _ in owners], [lengths[piece] for _, piece in owners])
    at = at[counted]
    first = [piece.start for piece in pieces]
    return MicroBatch(
        input_ids=torch.from_numpy(tokens)[None],
        position_ids=torch.from_numpy(np.arange(len(tokens)) - np.repeat(starts - first, lengths))[None],
        layout=Layout(tuple(lengths), tuple(behind.tolist()) if (behind >= 0).any() else ()),
        predictors=torch.from_numpy(predictors[at]),
        targets=torch.from_numpy(tokens[at]),
        weights=torch.from_numpy(weights[counted].astype(np.float32)),
        sample=torch.from_numpy(sample[counted]),
        fields={name: torch.from_numpy(values.astype(np.float32)) for name, values in fields.items()},
    )
