"""A language model as the marker: problem, scheme and proof in, a verdict out, as often as there are votes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from qednano import metrics
from qednano.api.grader import Aggregate, RubricGrader
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, DataError
from qednano.grading.asking import Bill, NoGrade, Question, verdict
from qednano.grading.interface import Failure, Grade
from qednano.grading.parse import Verdict, delimited, instructions, new_nonce, parse_verdict, verdict_schema
from qednano.grading.rubric import Rubric, scheme_of
from qednano.llm.chat import ChatModel, ChatParams
from qednano.llm.prompts import render

MOST_IF_CUT_OFF = 6
"""Points: full marks are for complete proofs, and one that the token limit ended is not complete."""

AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    Aggregate.MEAN: lambda votes: sum(votes) / len(votes),
    Aggregate.MEDIAN: median,
    Aggregate.MIN: min,
}


class RubricMarker:
    """Asks a model for k verdicts on a proof. More than half of the votes must come for there to be a score."""

    def __init__(self, spec: RubricGrader, model: ChatModel) -> None:
        self.spec, self.model = spec, model
        self.name = f"rubric by {model.name}"
        self._check_prompt()

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        """The votes as one score; an empty proof is worth nothing and isn't asked about.

        One that the token limit ended is incomplete: the model is told so, and it earns MOST_IF_CUT_OFF at most.
        """
        if not proof.strip():
            return Grade(0, "no proof was given")
        try:
            scheme = scheme_of(problem.rubric, f"the marking scheme of {problem.id}")
        except DataError as error:
            return Grade(None, str(error), failure=Failure.UNGRADABLE)
        bill = Bill()
        asked = await asyncio.gather(
            *(self._vote(problem, scheme, proof, bill, cut_off) for _ in range(self.spec.votes))
        )
        votes = [item for item in asked if isinstance(item, Verdict)]
        failures = [item for item in asked if isinstance(item, NoGrade)]
        if failures and 2 * len(votes) <= self.spec.votes:
            return failures[0].grade(votes=[_shown(vote) for vote in votes], usage=bill.as_details())
        scores = [vote.score for vote in votes]
        score = float(AGGREGATES[self.spec.aggregate](scores))
        spoken = min(votes, key=lambda vote: abs(vote.score - score))  # whose words stand for the grade
        details: dict[str, Any] = {"votes": [_shown(vote) for vote in votes], "usage": bill.as_details()}
        if self.spec.votes > 1:
            details["agreement"] = agreement(scores) | {"missing": len(failures)}
            metrics.GRADER_SPREAD.observe(max(scores) - min(scores))
        if isinstance(scheme, Rubric):
            details |= _marks(scheme, spoken)
        elif spoken.errors:
            details["deductions"] = spoken.errors
        if cut_off:
            details["cut_off"] = {"votes": score, "most": MOST_IF_CUT_OFF}
            score = min(score, float(MOST_IF_CUT_OFF))
        return Grade(score, spoken.assessment, details)

    async def close(self) -> None:
        """The model belongs to who opened it."""

    async def _vote(
        self, problem: ProblemRow, scheme: Rubric | str, proof: str, bill: Bill, cut_off: bool
    ) -> Verdict | NoGrade:
        typed = scheme if isinstance(scheme, Rubric) else None
        nonce = new_nonce()
        text = self._text(problem, scheme, proof, nonce, cut_off)
        params = ChatParams.of(self.spec.sampling, schema=verdict_schema(nonce, typed))
        question = Question(text, lambda answer: parse_verdict(answer, nonce, typed), instructions(nonce, typed))
        try:
            found: Verdict = await verdict(self.model, question, params, repair=self.spec.repair, bill=bill)
        except NoGrade as failure:
            return failure
        return found

    def _text(self, problem: ProblemRow, scheme: Rubric | str, proof: str, nonce: str, cut_off: bool = False) -> str:
        told = scheme.told() if isinstance(scheme, Rubric) else scheme
        reference = (problem.reference or "") if self.spec.reference_solution else ""
        return render(
            "grading/rubric",
            self.spec.prompt,
            nonce=nonce,
            problem=delimited(problem.problem, nonce, "PROBLEM"),
            scheme=delimited(told, nonce, "SCHEME") if told else "",
            reference=delimited(reference, nonce, "SOLUTION") if reference else "",
            proof=delimited(proof, nonce),
            cut_off=cut_off,
            instructions=instructions(nonce, scheme if isinstance(scheme, Rubric) else None),
        )

    def _check_prompt(self) -> None:
        nonce = new_nonce()
        text = self._text(ProblemRow("id", "(problem)"), "", "(proof)", nonce)
        for name, needed in (("proof", delimited("(proof)", nonce)), ("instructions", instructions(nonce))):
            if needed not in text:
                raise ConfigError(f"rubric.prompt leaves out {{{{ {name} }}}}: without it no verdict can be had")


def agreement(scores: Sequence[float]) -> dict[str, float]:
    """How far votes agree: `spread`, highest minus lowest in points; `same`, share of pairs that are equal."""
    pairs = list(combinations(scores, 2))
    same = sum(first == second for first, second in pairs) / len(pairs) if pairs else 1.0
    return {"spread": float(max(scores) - min(scores)), "same": same}


def _shown(vote: Verdict) -> dict[str, Any]:
    shown: dict[str, Any] = {"score": vote.score, "reason": vote.assessment, "errors": vote.errors}
    return shown | ({"points": vote.points, "flaws": vote.flaws} if vote.points else {})


def _marks(scheme: Rubric, vote: Verdict) -> dict[str, Any]:
    flaws = set(vote.flaws)
    return {
        "checkpoints": [
            {
                "id": item.id,
                "description": item.description,
                "points": item.points,
                "earned": vote.points.get(item.id, 0),
                "counted": item.id in vote.counted,
            }
            for item in scheme.all_checkpoints()
        ],
        "deductions": [
            {"id": item.id, "points": item.points, "note": item.description}
            for item in scheme.deductions
            if item.id in flaws
        ],
        "caps": [
            {"id": item.id, "points": item.at_most, "note": item.description}
            for item in scheme.caps
            if item.id in flaws
        ],
    }
