"""Asking a language model for a verdict: one question, one repair, and a bill of what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from qednano.errors import Unavailable
from qednano.grading.interface import Failure, Grade
from qednano.grading.parse import NoVerdict
from qednano.llm.chat import ChatAnswer, ChatModel, ChatParams, Message
from qednano.llm.client import RequestRefused
from qednano.llm.prompts import render

Found = TypeVar("Found")
_QUOTED = 8000  # characters of an unreadable answer that are shown to its author again


@dataclass
class Bill:
    """What the answers behind one grade cost; the money is unknown as soon as one price is."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal | None = field(default_factory=Decimal)

    def add(self, answer: ChatAnswer) -> None:
        """Enter one answer."""
        self.calls += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.cost = None if self.cost is None or answer.cost is None else self.cost + answer.cost

    def as_details(self) -> dict[str, Any]:
        """As `usage` in the details of a grade."""
        return {**vars(self), "cost": None if self.cost is None else float(self.cost)}


class NoGrade(Exception):
    """Why one question got no verdict."""

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure, self.reason = failure, reason

    def grade(self, **details: Any) -> Grade:
        """As a grade without score."""
        return Grade(None, self.reason, details, self.failure)


@dataclass(frozen=True)
class Question:
    """One question: its text, how to read the answer (raising NoVerdict), and what is said again in a repair."""

    text: str
    read: Callable[[str], Any]
    instructions: str


async def verdict(model: ChatModel, question: Question, params: ChatParams, *, repair: bool, bill: Bill) -> Any:
    """What the answer says, after one repair at most. Raises NoGrade; a spent budget is raised as it is."""
    messages: list[Message] = [{"role": "user", "content": question.text}]
    answer = await _ask(model, messages, params, bill)
    try:
        return question.read(answer.text)
    except NoVerdict as mistake:
        if not repair:
            raise NoGrade(Failure.UNREADABLE, _said(answer, mistake)) from None
        text = render("grading/repair", mistake=str(mistake), instructions=question.instructions)
        messages += [
            {"role": "assistant", "content": answer.text[:_QUOTED] or "(nothing)"},
            {"role": "user", "content": text},
        ]
    answer = await _ask(model, messages, params if params.seed is None else replace(params, seed=params.seed + 1), bill)
    try:
        return question.read(answer.text)
    except NoVerdict as mistake:
        raise NoGrade(Failure.UNREADABLE, f"{_said(answer, mistake)}, also when asked again") from None


async def _ask(model: ChatModel, messages: Sequence[Message], params: ChatParams, bill: Bill) -> ChatAnswer:
    try:
        answer = await model.chat(messages, params)
    except RequestRefused as error:
        raise NoGrade(Failure.REFUSED, str(error)) from None
    except Unavailable as error:
        raise NoGrade(Failure.UNAVAILABLE, str(error)) from None
    bill.add(answer)
    return answer


def _said(answer: ChatAnswer, mistake: NoVerdict) -> str:
    return f"{mistake} (it was cut off by sampling.maxTokens)" if answer.cut_off else str(mistake)
