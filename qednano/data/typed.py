"""Answers with a type: asked for by a schema, read strictly, and after a mistake asked again with it named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from qednano.data.asking import Parked
from qednano.errors import DataError
from qednano.llm import prompts
from qednano.llm.chat import ChatModel, ChatParams, Message
from qednano.llm.client import RequestRefused

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

CUT_OFF = "cut off"
_LONGEST = 1 << 18  # characters of an answer that are read
_QUOTED = 8000  # characters of a wrong answer that its author is shown again
_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n?```\Z", re.DOTALL)


async def ask_typed(
    model: ChatModel,
    messages: Sequence[Message],
    params: ChatParams,
    read: Callable[[str], T],
    *,
    tries: int,
    cause: str,
) -> T:
    """What `read` makes of the answer; it raises DataError with what is wrong, which the model is told in the next try.

    After `tries` tries the unit is parked for `cause`, or as cut off if the last answer was.
    """
    told, last = "", Parked(cause, "it was never asked")
    asked = list(messages)
    for number in range(tries):
        drawn = params if number == 0 or params.seed is None else replace(params, seed=params.seed + number)
        try:
            answer = await model.chat(asked, drawn)
        except RequestRefused as refusal:
            if number == 0 or refusal.status != 400:
                raise
            raise last from None  # with what was said before, the request is too long: the first mistake is the cause
        quoted = answer.text[:_QUOTED] or "(no answer)"
        if answer.cut_off:
            quoted = "(an answer that was too long)"
            told = f"The answer was cut off after {answer.completion_tokens} tokens. Answer more briefly."
            last = Parked(CUT_OFF, f"its answer was longer than maxTokens ({params.max_tokens})")
        else:
            try:
                return read(answer.text)
            except DataError as error:
                told, last = str(error), Parked(cause, str(error))
        repair = prompts.render("data/repair", mistake=told)
        asked = [*messages, {"role": "assistant", "content": quoted}, {"role": "user", "content": repair}]
    raise last


def json_text(answer: str) -> str:
    """The JSON of an answer: all of it, or all that stands in its one fence, after any thinking."""
    said = answer.rpartition("</think>")[2].strip()
    if not said:
        raise DataError("the answer is empty")
    if len(said) > _LONGEST:
        raise DataError(f"the answer is longer than {_LONGEST} characters")
    fenced = _FENCED.match(said)
    return fenced.group(1).strip() if fenced else said


def read_as(kind: type[M]) -> Callable[[str], M]:
    """A reader of answers that are one JSON object of this type. Its DataError lists everything that is wrong."""

    def read(answer: str) -> M:
        try:
            return kind.model_validate_json(json_text(answer))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)[:8]
            )
            raise DataError(f"the answer is not what was asked for: {faults}") from None

    return read
