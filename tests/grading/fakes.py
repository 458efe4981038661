"""Language models that answer as a test wants, without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from qednano.llm.chat import ChatAnswer, ChatParams, Message

NONCE = re.compile(r"<<<PROBLEM ([0-9a-f]{32})>>>")


def nonce_of(messages: Sequence[Message]) -> str:
    """The nonce of the question, which an honest grader repeats."""
    found = NONCE.search(messages[0]["content"])
    assert found is not None
    return found[1]


def proof_of(messages: Sequence[Message]) -> str:
    """What stands between the marks of the proof."""
    nonce = nonce_of(messages)
    text = messages[0]["content"]
    return text.rpartition(f"<<<PROOF {nonce}>>>\n")[2].rpartition(f"\n<<<END OF PROOF {nonce}>>>")[0]


def said(messages: Sequence[Message], score: object, **more: object) -> str:
    """An honest verdict."""
    verdict = {"nonce": nonce_of(messages), "assessment": "Judged.", "errors": [], "score": score, **more}
    return json.dumps({key: value for key, value in verdict.items() if value is not None})


class FakeModel:
    """Answers with what `answer` makes of the messages; an exception it returns is raised. Keeps what it was asked."""

    name = "fake"

    def __init__(self, answer: Callable[[Sequence[Message]], object], cost: Decimal | None = Decimal("0.5")) -> None:
        self._answer, self._cost = answer, cost
        self.asked: list[Sequence[Message]] = []
        self.params: list[ChatParams] = []

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        self.asked.append(list(messages))
        self.params.append(params)
        found = self._answer(messages)
        if isinstance(found, Exception):
            raise found
        return ChatAnswer(str(found), "stop", 100, 10, cost=self._cost)


def in_turn(*answers: Callable[[Sequence[Message]], object]) -> Callable[[Sequence[Message]], object]:
    """The first answer to the first question, and so on; the last one to all further ones."""
    left = list(answers)
    return lambda messages: (left.pop(0) if len(left) > 1 else left[0])(messages)
