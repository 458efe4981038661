"""How hard a problem is for a given model: so many attempts, each graded, and the share that passes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qednano.api.data_stages import FULL_SCORE, DifficultyStage
from qednano.data.answers import Recorded, key_of
from qednano.data.asking import Unit, seed_of
from qednano.data.asking_stage import AskingStage, capacity, dearest
from qednano.data.generate import candidate_of
from qednano.data.grade import graded, grader_with, grading_cost
from qednano.data.schema import ProblemRow
from qednano.data.stage import Place, Tally
from qednano.grading.interface import Grader
from qednano.llm import prompts
from qednano.llm.chat import ChatModel, ChatParams


class Difficulty:
    """What the model and the grader are asked of each row; an `Asker`."""

    def __init__(self, spec: DifficultyStage, seed: int) -> None:
        self.spec = spec
        self.needs_models = True
        self.in_flight = capacity(spec.model)
        self.guess = dearest(spec.model, spec.sampling.max_tokens)
        self.guess.add(grading_cost(spec.grader))
        self._seed = seed
        self._model: ChatModel
        self._grader: Grader

    def open(self, models: Mapping[str, ChatModel]) -> None:
        """The model that tries, and the grader."""
        self._model = models["model"]
        self._grader = grader_with(self.spec.grader, models)

    async def close(self) -> None:
        """Close the grader."""
        await self._grader.close()

    def units(self, row: ProblemRow) -> list[Unit]:
        """One for each attempt."""
        return [self._unit(row, number) for number in range(self.spec.samples)]

    def _unit(self, row: ProblemRow, number: int) -> Unit:
        key = key_of("difficulty", row.id, row.problem, str(number))

        async def ask() -> dict[str, Any]:
            prompt = prompts.render("data/prove", self.spec.prompt, problem=row.problem)
            params = ChatParams.of(self.spec.sampling, seed=seed_of(self._seed, key))
            answer = await self._model.chat([{"role": "user", "content": prompt}], params)
            attempt = candidate_of(answer, self._model.name)
            score, reason = 0.0, "cut off by the token limit" if attempt.cut_off else "no proof"
            if attempt.proof and not attempt.cut_off:
                grade = await graded(self._grader, row, attempt.proof)
                assert grade.score is not None
                score, reason = float(grade.score), grade.reason
            return {
                "score": score,
                "reason": reason,
                "proof": attempt.proof,
                "finish_reason": attempt.finish_reason,
                "completion_tokens": attempt.completion_tokens,
            }

        return Unit(key, row.id, ask)

    def finish(self, row: ProblemRow, ended: list[Recorded | None], tally: Tally) -> ProblemRow | None:
        """The row with its measures, over the attempts that have a score."""
        scores = [float(item.value["score"]) for item in ended if item is not None and item.value is not None]
        passes = sum(score >= self.spec.passing_score for score in scores)
        tally.counts["attempts"] += len(scores)
        tally.counts["attempts missing"] += len(ended) - len(scores)
        tally.counts["passes"] += passes
        tally.counts["never solved"] += passes == 0
        tally.counts["always solved"] += passes == len(scores)
        return replace(
            row,
            pass_rate=passes / len(scores),
            mean_reward=statistics.fmean(scores) / FULL_SCORE,
            attempts=len(scores),
        )


def difficulty(spec: DifficultyStage, place: Place) -> AskingStage:
    """The stage `difficulty`."""
    return AskingStage(place, Difficulty(spec, place.seed))
