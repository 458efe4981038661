"""From a dataset's rows to documents for SFT, and the order in which they are seen.

A row with k solutions gives k documents: the problem as the user's turn, the proof as the assistant's, through the
model's own chat template. Loss is on the proof and its end-of-sequence token only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qednano.data.schema import read_rows
from qednano.errors import ConfigError, DataError
from qednano.training.packing import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """Token ids of one problem with one proof; the first `prompt_length` are the problem's."""

    tokens: list[int]
    prompt_length: int

    @property
    def answer_tokens(self) -> int:
        """Tokens that carry loss."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class Examples:
    """All examples of a dataset, and how many were cut to the sequence length or left out as their prompt fills it."""

    items: list[Example]
    truncated: int
    left_out: int


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(problem, solution) pairs of a dataset split. Raises DataError naming file and row."""
    pairs = []
    for number, row in enumerate(read_rows(path)):
        solutions = [text for text in row.solutions if text.strip()]
        if not solutions:
            raise DataError(
                f"{path}, row {number} (id {row.id}) has no solution, and SFT learns from solutions; "
                "remove the row or give the dataset solutions"
            )
        pairs += [(row.problem, solution) for solution in solutions]
    if not pairs:
        raise DataError(f"{path} has no rows; there is nothing to learn from")
    return pairs


def tokenise(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> Examples:
    """Examples of the pairs; those longer than `sequence_length` are cut. Raises DataError when none is left.

    Prompt and proof are tokenised apart, as at inference, where the prompt is tokenised alone.
    """
    prompts, answers = [], []
    for problem, solution in pairs:
        prompt, answer = _render(problem, solution, tokenizer)
        prompts.append(prompt)
        answers.append(answer)
    prompt_ids = tokenizer(prompts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    items, truncated, left_out = [], 0, 0
    for prompt_tokens, answer_tokens in zip(prompt_ids, answer_ids, strict=True):
        tokens = [*prompt_tokens, *_ended(answer_tokens, tokenizer.eos_token_id)]
        if len(prompt_tokens) >= sequence_length:
            left_out += 1
            continue
        truncated += len(tokens) > sequence_length
        items.append(Example(tokens[:sequence_length], len(prompt_tokens)))
    if not items:
        raise DataError(f"every prompt has {sequence_length} tokens or more; raise spec.trainer.sequenceLength")
    return Examples(items, truncated, left_out)


def _render(problem: str, solution: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    asked = [{"role": "user", "content": problem}]
    answered = [*asked, {"role": "assistant", "content": solution}]
    prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(answered, tokenize=False))
    if not whole.startswith(prompt):
        raise ConfigError(
            "the model's chat template renders an answered question differently from the question alone, so the "
            f"answer can't be told apart; the question ends in {prompt[-40:]!r}. Use a template whose generation "
            "prompt is the beginning of the assistant's turn"
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
            [0.0] * example.prompt_length + [1.0 / total] * example.answer_tokens,
            index=index,
        )
        for index, example in enumerate(examples)
    ]


class DataOrder:
    """Which examples a step sees: a pure function of the seed and of how many examples were seen before.

    Each epoch is a permutation of its own. A step takes examples in order while they fit `batch_tokens`.
    """

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int) -> None:
        self.lengths, self.batch_tokens, self.seed = lengths, batch_tokens, seed
        self._epoch = -1
        self._permutation: np.ndarray = np.empty(0, dtype=np.int64)

    def batch(self, position: int) -> list[int]:
        """Indices of the step that starts after `position` examples; the next starts at `position + len(batch)`."""
        chosen: list[int] = []
        tokens = 0
        while True:
            index = self._at(position + len(chosen))
            tokens += self.lengths[index]
            if chosen and tokens > self.batch_tokens:
                return chosen
            chosen.append(index)

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.lengths))
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths))
        return int(self._permutation[offset])
