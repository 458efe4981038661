"""Final answers: algebra first, and a model where algebra can't tell; the score comes from a table of outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

from qednano.api.grader import FinalAnswerGrader
from qednano.data.schema import ProblemRow
from qednano.errors import Unavailable
from qednano.grading.answers import LONGEST, AnswerWorkers, Equality, stated_answer
from qednano.grading.asking import Bill, NoGrade, Question, verdict
from qednano.grading.interface import Failure, Grade
from qednano.grading.parse import NoVerdict, delimited, new_nonce, only, parse_reply
from qednano.llm.chat import ChatModel, ChatParams
from qednano.llm.prompts import render

_PROCESSES = 2


class AnswerOutcome(StrEnum):
    """What became of a final answer; the names are those of the reward table."""

    CORRECT = "correct"
    WRONG = "wrong"
    NONE = "none"
    UNREADABLE = "unreadable"
    CUT_OFF = "cut_off"


class FinalAnswerMarker:
    """Compares the answer that a text states with the known one."""

    def __init__(self, spec: FinalAnswerGrader, judge: ChatModel | None) -> None:
        self.spec, self.judge = spec, judge
        self.name = "final answer" + (f", then {judge.name}" if judge is not None else "")
        self._workers = AnswerWorkers(spec.timeout_seconds, _PROCESSES)
        self._threads = ThreadPoolExecutor(_PROCESSES, "algebra")

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The table's score for what became of the answer; no grade without a known answer."""
        if not (problem.answer or "").strip():
            return Grade(None, f"problem {problem.id} has no known answer", failure=Failure.UNGRADABLE)
        if cut_off:
            return self._scored(AnswerOutcome.CUT_OFF, "cut off by the token limit")
        given = stated_answer(proof)
        if given is None:
            return self._scored(AnswerOutcome.NONE, "no answer was given")
        assert problem.answer is not None
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._workers.compare, problem.answer, given)
        except Unavailable as error:
            return Grade(None, str(error), failure=Failure.UNAVAILABLE)
        told = {"given": given[:LONGEST], "known": problem.answer[:LONGEST], "algebra": found.value}
        if found is Equality.EQUAL:
            return self._scored(AnswerOutcome.CORRECT, "equal by algebra", told)
        if found is Equality.DIFFERENT:
            return self._scored(AnswerOutcome.WRONG, "another value, by algebra", told)
        if self.judge is not None and len(given) <= LONGEST:
            return await self._judged(problem, given, told)
        if found is Equality.UNREADABLE:
            return self._scored(AnswerOutcome.UNREADABLE, "the answer can't be read as mathematics", told)
        return self._scored(AnswerOutcome.WRONG, "algebra does not find it equal", told)

    async def close(self) -> None:
        """End the algebra processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._workers.close)

    def _scored(self, outcome: AnswerOutcome, reason: str, told: Mapping[str, Any] | None = None) -> Grade:
        return Grade(getattr(self.spec.reward, outcome.value), reason, {"outcome": outcome.value, **(told or {})})

    async def _judged(self, problem: ProblemRow, given: str, told: dict[str, Any]) -> Grade:
        bill = Bill()
        asked = await asyncio.gather(*(self._opinion(problem, given, bill) for _ in range(self.spec.votes)))
        votes = [item for item in asked if not isinstance(item, NoGrade)]
        failures = [item for item in asked if isinstance(item, NoGrade)]
        told["usage"] = bill.as_details()
        if failures and 2 * len(votes) <= self.spec.votes:
            return failures[0].grade(**told)
        equal = sum(same for same, _ in votes)
        outcome = AnswerOutcome.CORRECT if 2 * equal > len(votes) else AnswerOutcome.WRONG
        told["votes"] = [{"equal": same, "reason": reason} for same, reason in votes]
        reason = next(reason for same, reason in votes if same == (outcome is AnswerOutcome.CORRECT))
        return self._scored(outcome, reason, told)

    async def _opinion(self, problem: ProblemRow, given: str, bill: Bill) -> tuple[bool, str] | NoGrade:
        assert self.judge is not None and problem.answer is not None
        nonce = new_nonce()
        text = render(
            "grading/judge",
            nonce=nonce,
            problem=delimited(problem.problem, nonce, "PROBLEM"),
            known=delimited(problem.answer, nonce, "KNOWN"),
            given=delimited(given, nonce, "CANDIDATE"),
        )
        form = f'One JSON object: {{"nonce": "{nonce}", "reason": "...", "equal": true or false}}'
        params = ChatParams.of(self.spec.sampling, schema=_schema(nonce))
        question = Question(text, lambda answer: parse_reply(answer, nonce, _opinion), form)
        try:
            found: tuple[bool, str] = await verdict(self.judge, question, params, repair=True, bill=bill)
        except NoGrade as failure:
            return failure
        return found


def _opinion(value: Mapping[str, Any]) -> tuple[bool, str]:
    only(value, "equal", "reason")
    equal, reason = value.get("equal"), value.get("reason", "")
    if not isinstance(equal, bool):
        raise NoVerdict("the judge's answer does not say equal: true or false")
    if not isinstance(reason, str):
        raise NoVerdict("the judge's reason is not text")
    return equal, reason


def _schema(nonce: str) -> dict[str, Any]:
    properties = {
        "nonce": {"const": nonce},
        "reason": {"type": "string", "maxLength": 4000},
        "equal": {"type": "boolean"},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
