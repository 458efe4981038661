"""Scores of proofs: each candidate graded so many times, the gradings made one score, their disagreement kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qednano.api.data_stages import GradeStage
from qednano.api.grader import Aggregate, GraderPart
from qednano.api.grader import Grader as GraderSpec
from qednano.api.language import LanguageModel
from qednano.data.answers import Recorded, Usage, key_of
from qednano.data.asking import Parked, Unit
from qednano.data.asking_stage import AskingStage, capacity, dearest
from qednano.data.schema import Candidate, ProblemRow
from qednano.data.stage import Place, Tally
from qednano.grading.interface import Grade, Grader
from qednano.grading.patience import obtain_grade
from qednano.grading.registry import below, grader_for
from qednano.llm.chat import ChatModel

NO_GRADE = "no grade"
_BY_PROGRAM = 32  # units in flight where no model is asked

_AGGREGATES = {Aggregate.MEAN: statistics.fmean, Aggregate.MEDIAN: statistics.median, Aggregate.MIN: min}


def aggregate(votes: Sequence[float], how: Aggregate) -> float:
    """One score from at least one grading."""
    return float(_AGGREGATES[how](votes))


def asked_models(grader: GraderSpec) -> Iterator[tuple[LanguageModel, int]]:
    """The models that a grader asks, each with the most tokens that one grade takes of it."""
    graders: list[GraderSpec | GraderPart] = [grader, *(grader.mixture.parts if grader.mixture else [])]
    for item in graders:
        if item.rubric is not None:
            yield item.rubric.model, item.rubric.votes * item.rubric.sampling.max_tokens
        if item.final_answer is not None and item.final_answer.model is not None:
            yield item.final_answer.model, item.final_answer.sampling.max_tokens


def grading_capacity(grader: GraderSpec) -> int:
    """How many grades may be asked for at once."""
    return max((capacity(model) for model, _ in asked_models(grader)), default=_BY_PROGRAM)


def grading_cost(grader: GraderSpec) -> Usage:
    """What one grade may cost at most."""
    total = Usage()
    for model, tokens in asked_models(grader):
        total.add(dearest(model, tokens))
    return total


def grader_with(spec: GraderSpec, models: Mapping[str, ChatModel]) -> Grader:
    """The grader of a stage's field `grader`, from the stage's models."""
    return grader_for(spec, below(models, "grader"))


async def graded(grader: Grader, row: ProblemRow, proof: str) -> Grade:
    """The grade of one proof. Raises Parked where none can be had."""
    grade = await obtain_grade(grader, row, proof)
    if grade.score is None:
        raise Parked(NO_GRADE, grade.reason)
    return grade


class GradeCandidates:
    """What a grader is asked of each row; an `Asker`."""

    def __init__(self, spec: GradeStage) -> None:
        self.spec = spec
        self.needs_models = any(asked_models(spec.grader))
        self.in_flight = grading_capacity(spec.grader)
        self.guess = grading_cost(spec.grader)
        self._grader: Grader

    def open(self, models: Mapping[str, ChatModel]) -> None:
        """The grader with its models."""
        self._grader = grader_with(self.spec.grader, models)

    async def close(self) -> None:
        """Close the grader."""
        await self._grader.close()

    def units(self, row: ProblemRow) -> list[Unit]:
        """So many gradings of each candidate that is a whole proof."""
        return [
            self._unit(row, candidate, number)
            for candidate in _whole(_candidates(row))
            for number in range(self.spec.gradings)
        ]

    def _unit(self, row: ProblemRow, candidate: Candidate, number: int) -> Unit:
        key = key_of("grade", row.id, row.problem, row.rubric or "", candidate.proof, str(number))

        async def ask() -> dict[str, Any]:
            grade = await graded(self._grader, row, candidate.proof)
            return {"score": grade.score, "reason": grade.reason, "details": grade.details}

        return Unit(key, row.id, ask)

    def finish(self, row: ProblemRow, ended: list[Recorded | None], tally: Tally) -> ProblemRow | None:
        """The row with scored candidates; one that is cut off, empty or without a grade has no score."""
        votes = iter(ended)
        found = []
        for candidate in _candidates(row):
            if not _is_whole(candidate):
                tally.counts["cut off or empty, not graded"] += 1
                found.append(candidate)
                continue
            mine = [next(votes) for _ in range(self.spec.gradings)]
            scores = [float(vote.value["score"]) for vote in mine if vote is not None and vote.value is not None]
            tally.counts["gradings"] += len(scores)
            tally.counts["gradings missing"] += len(mine) - len(scores)
            if scores:
                score = aggregate(scores, self.spec.aggregate)
                candidate = replace(candidate, score=score, votes=scores)
                tally.counts[f"score {score:.0f}"] += 1
                tally.counts["gradings disagree"] += candidate.disagreement > 0
            found.append(candidate)
        return replace(row, candidates=found)


def _candidates(row: ProblemRow) -> list[Candidate]:
    """The candidates of a row, or what it has for solutions."""
    if row.candidates:
        return row.candidates
    reasoning = [*row.reasoning, *[""] * len(row.solutions)]
    return [Candidate(proof, thought) for proof, thought in zip(row.solutions, reasoning, strict=False)]


def _is_whole(candidate: Candidate) -> bool:
    return bool(candidate.proof.strip()) and not candidate.cut_off


def _whole(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if _is_whole(candidate)]


def grade(spec: GradeStage, place: Place) -> AskingStage:
    """The stage `grade`."""
    return AskingStage(place, GradeCandidates(spec))
