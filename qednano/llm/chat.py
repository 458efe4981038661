"""What anyone who asks a language model codes against: messages in, an answer with its cost out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from qednano.api.language import ChatSampling, ReasoningEffort

Message = Mapping[str, str]
"""A turn: role (system, user or assistant) and content."""


@dataclass(frozen=True)
class ChatParams:
    """How an answer is drawn. ``schema``: a JSON schema that the answer must fit, where the server can see to it."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    schema: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, sampling: ChatSampling, *, seed: int | None = None, schema: Mapping[str, Any] | None = None
    ) -> ChatParams:
        """The parameters that a spec asks for."""
        return cls(
            max_tokens=sampling.max_tokens,
            temperature=float(sampling.temperature),
            top_p=float(sampling.top_p),
            top_k=sampling.top_k,
            seed=seed,
            reasoning_effort=sampling.reasoning_effort,
            schema=schema,
        )


@dataclass(frozen=True)
class ChatAnswer:
    """One answer. ``text`` is what it states, ``reasoning`` what it thought before (empty when it did not say).

    ``cost`` is in the currency of the price table, None when the price is unknown; ``seconds`` from request to
    answer; ``cached`` when no server was asked.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str = ""
    model: str = ""
    cost: Decimal | None = None
    seconds: float = 0.0
    cached: bool = False

    @property
    def cut_off(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason == "length"


class ChatModel(Protocol):
    """A language model ready to be asked, by many tasks of one event loop at once."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """One answer. Raises RequestRefused (asking again won't help), Unavailable (all tries failed) or
        BudgetSpent (before anything is sent)."""
        ...
