"""From datasets' rows to documents for SFT, and the order in which they are seen.

A row with k solutions gives k documents: the problem as the user's turn, reasoning and proof as the assistant's,
through the model's own chat template. Loss is on the assistant's turn and its end-of-sequence token only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qednano.data.schema import read_rows
from qednano.errors import ConfigError, DataError
from qednano.training.packing import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 256  # pairs given to the tokenizer together


@dataclass(frozen=True)
class Pair:
    """A problem with one solution and, where the row has it, the thinking before it."""

    problem: str
    solution: str
    reasoning: str = ""


@dataclass(frozen=True)
class Example:
    """Token ids of one problem with one proof, in four bytes each where `tokenise` made them: every rank holds all of a
    dataset. The first `prompt_length` are the problem's."""

    tokens: Sequence[int]
    prompt_length: int

    @property
    def answer_tokens(self) -> int:
        """Tokens that carry loss."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class Examples:
    """All examples of a dataset, and how many were cut to the sequence length or left out as their prompt fills it.

    `lengths`: tokens of each example before it was cut, those left out included.
    """

    items: list[Example]
    truncated: int
    left_out: int
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return sum(len(item.tokens) for item in self.items)

    def statistics(self) -> dict[str, float]:
        """Counts and lengths, for log, status and manifest."""
        middle, high = np.percentile(self.lengths, [50, 95]) if self.lengths else (0, 0)
        return {
            "proofs": len(self.items),
            "truncatedProofs": self.truncated,
            "leftOutProofs": self.left_out,
            "tokensPerEpoch": self.tokens,
            "lengthMedian": float(middle),
            "length95": float(high),
            "lengthMax": max(self.lengths, default=0),
        }


def read_pairs(path: Path) -> list[Pair]:
    """Problems with each of their solutions, of a dataset split. Raises DataError naming file and row."""
    pairs = []
    for number, row in enumerate(read_rows(path)):
        if row.reasoning and len(row.reasoning) != len(row.solutions):
            raise DataError(
                f"{path}, row {number} (id {row.id}) has {len(row.solutions)} solutions and {len(row.reasoning)} "
                "reasonings; give each solution its own, or none"
            )
        reasoning = row.reasoning or [""] * len(row.solutions)
        found = [
            Pair(row.problem, solution, thought)
            for solution, thought in zip(row.solutions, reasoning, strict=True)
            if solution.strip()
        ]
        if not found:
            raise DataError(
                f"{path}, row {number} (id {row.id}) has no solution, and SFT learns from solutions; "
                "remove the row or give the dataset solutions"
            )
        pairs += found
    if not pairs:
        raise DataError(f"{path} has no rows; there is nothing to learn from")
    return pairs


def hold_out(pairs: Sequence[Pair], problems: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(to train on, held out): all pairs of so many problems drawn by the seed are held out.

    Raises ConfigError when too few problems would be left.
    """
    distinct = sorted({pair.problem for pair in pairs})
    if problems >= len(distinct):
        raise ConfigError(
            f"spec.validation.holdOut is {problems}, and the dataset has {len(distinct)} problems; hold out fewer"
        )
    drawn = np.random.default_rng([seed, problems]).permutation(len(distinct))[:problems]
    held = {distinct[index] for index in drawn}
    return [p for p in pairs if p.problem not in held], [p for p in pairs if p.problem in held]


def tokenise(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> Examples:
    """Examples of the pairs; those longer than `sequence_length` are cut. Raises DataError when none is left.

    Prompt and answer are tokenised apart, as at inference, where the prompt is tokenised alone.
    """
    items, lengths, truncated, left_out = [], [], 0, 0
    for prompt, answer in _token_ids(pairs, tokenizer):
        tokens = [*prompt, *_ended(answer, tokenizer.eos_token_id)]
        lengths.append(len(tokens))
        if len(prompt) >= sequence_length:
            left_out += 1
            continue
        truncated += len(tokens) > sequence_length
        items.append(Example(array("i", tokens[:sequence_length]), len(prompt)))
    if not items:
        raise DataError(f"every prompt has {sequence_length} tokens or more; raise spec.trainer.sequenceLength")
    return Examples(items, truncated, left_out, lengths)


def _token_ids(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and answer of each pair; a few at a time, since a tokenizer tells much more of a token than its id."""
    for start in range(0, len(pairs), _AT_ONCE):
        rendered = [_render(pair, tokenizer) for pair in pairs[start : start + _AT_ONCE]]
        prompts, answers = (
            tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            for texts in map(list, zip(*rendered, strict=True))
        )
        yield from zip(prompts, answers, strict=True)


def _render(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    asked = [{"role": "user", "content": pair.problem}]
    prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    answer = {"role": "assistant", "content": pair.solution}
    if pair.reasoning:
        answer["reasoning_content"] = pair.reasoning
    whole = str(tokenizer.apply_chat_template([*asked, answer], tokenize=False))
    thought = pair.reasoning.strip()
    if thought and thought not in whole:  # a template without a place of its own for reasoning
        answer = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{pair.solution}"}
        whole = str(tokenizer.apply_chat_template([*asked, answer], tokenize=False))
    if not whole.startswith(prompt):
        raise ConfigError(
            "the model's chat template renders an answered question differently from the question alone, so the "
            f"answer can't be told apart; the question ends in {prompt[-40:]!r}. Use a template whose generation "
            "prompt is the beginning of the assistant's turn"
        )
    if thought and thought not in whole:
        raise ConfigError(
            "the model's chat template leaves out the reasoning of the answer, which SFT has to learn; use a template "
            "that renders the last turn's reasoning"
        )
    return prompt, whole[len(prompt) :]


def _ended(answer: list[int], end: int) -> list[int]:
    """The answer up to its last end-of-sequence token, which is added when the template gives none."""
    if end not in answer:
        return [*answer, end]
    return answer[: len(answer) - answer[::-1].index(end)]


def documents(examples: Sequence[Example]) -> list[Document]:
    """Documents of one step: every answer token weighs the same and all together weigh 1."""
    total = sum(example.answer_tokens for example in examples)
    return [
        Document(
            example.tokens,
            np.repeat([0.0, 1.0 / total], [example.prompt_length, example.answer_tokens]),
            index=index,
        )
        for index, example in enumerate(examples)
    ]


@dataclass(frozen=True)
class Source:
    """One dataset of a mixture: how many examples it has and how often an epoch shows each."""

    count: int
    weight: float = 1.0

    @property
    def per_epoch(self) -> int:
        """How many of its examples an epoch holds."""
        return max(1, round(self.count * self.weight))


class DataOrder:
    """Which examples a step sees: a pure function of the seed and of how many examples were seen before.

    Examples are numbered source by source. Each source is an endless stream of permutations, of which every epoch
    takes the next `per_epoch`; so no example is seen again before all others of its source were. An epoch shuffles
    what it takes. A step takes examples in order while they fit `batch_tokens`, up to `epochs` where that is given.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_tokens: int,
        seed: int,
        sources: Sequence[Source] = (),
        epochs: int | None = None,
    ) -> None:
        self.lengths, self.batch_tokens, self.seed = lengths, batch_tokens, seed
        self.sources = list(sources) or [Source(len(lengths))]
        self.per_epoch = sum(source.per_epoch for source in self.sources)
        self.end = None if epochs is None else epochs * self.per_epoch
        self._epoch = -1
        self._order: np.ndarray = np.empty(0, dtype=np.int64)

    def batch(self, position: int) -> list[int]:
        """Indices of the step that starts after `position` examples; the next starts at `position + len(batch)`."""
        chosen: list[int] = []
        tokens = 0
        while position + len(chosen) != self.end:
            index = self._at(position + len(chosen))
            tokens += self.lengths[index]
            if chosen and tokens > self.batch_tokens:
                break
            chosen.append(index)
        return chosen

    def steps(self) -> int:
        """How many steps there are up to the last epoch."""
        position = count = 0
        while position != self.end:
            position += len(self.batch(position))
            count += 1
        return count

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_order(epoch)
        return int(self._order[offset])

    def _epoch_order(self, epoch: int) -> np.ndarray:
        taken, first = [], 0
        for number, source in enumerate(self.sources):
            places = np.arange(epoch * source.per_epoch, (epoch + 1) * source.per_epoch)
            for turn in np.unique(places // source.count):
                permutation = np.random.default_rng([self.seed, number, turn]).permutation(source.count)
                taken.append(first + permutation[places[places // source.count == turn] % source.count])
            first += source.count
        return np.random.default_rng([self.seed, epoch]).permutation(np.concatenate(taken))
