"""What an RL run asks of language models: tokens in and out and money, over all attempts of its actor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from qednano.artifacts import write_atomic
from qednano.data.answers import Usage
from qednano.llm.chat import ChatAnswer, ChatModel, ChatParams, Message


class Bill:
    """A running total in a file: `save` writes it, a restarted actor goes on from it.

    A killed actor forgets what it used since it last saved, about a second's.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.total = Usage.from_json(json.loads(file.read_bytes())) if file.exists() else Usage()
        self._saved = self.total.answers

    def drawn(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a request to the run's own servers, which cost nothing by the token."""
        self.total.add(Usage(1, prompt_tokens, completion_tokens))

    def answered(self, answer: ChatAnswer) -> None:
        """Count an answer; one from the cache costs nothing."""
        if not answer.cached:
            unpriced = int(answer.cost is None)
            money = answer.cost or Decimal(0)
            self.total.add(Usage(1, answer.prompt_tokens, answer.completion_tokens, money, unpriced))

    def headlines(self) -> dict[str, float]:
        """The run's metrics of use by their common names."""
        return self.total.headlines()

    def save(self) -> None:
        """Write what changed."""
        if self.total.answers != self._saved:
            text, self._saved = json.dumps(self.total.to_json()), self.total.answers
            write_atomic(self._file, text)


class Billed:
    """A model whose answers are put on a bill; a ChatModel."""

    def __init__(self, model: ChatModel, bill: Bill) -> None:
        self._model, self._bill = model, bill

    @property
    def name(self) -> str:
        return self._model.name

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """The model's answer."""
        answer = await self._model.chat(messages, params)
        self._bill.answered(answer)
        return answer


def billed(models: Mapping[str, ChatModel], bill: Bill) -> dict[str, ChatModel]:
    """All of the models with their answers on the bill."""
    return {field: Billed(model, bill) for field, model in models.items()}
