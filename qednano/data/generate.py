"""Proofs by a teacher: so many samples of each problem, their thinking kept apart, each asked for exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from qednano.api.data_stages import GenerateStage
from qednano.data.answers import Recorded, Usage, key_of
from qednano.data.asking import Unit, seed_of
from qednano.data.asking_stage import AskingStage, capacity, dearest
from qednano.data.schema import Candidate, ProblemRow
from qednano.data.stage import Place, Tally
from qednano.llm import prompts
from qednano.llm.chat import ChatAnswer, ChatModel, ChatParams


def candidate_of(answer: ChatAnswer, model: str) -> Candidate:
    """An answer as a candidate. An answer that ends while it thinks has no proof."""
    return Candidate(
        proof=answer.text.strip(),
        reasoning=answer.reasoning.strip(),
        model=answer.model or model,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
    )


class Generate:
    """What the teacher is asked; an `Asker`."""

    def __init__(self, spec: GenerateStage, seed: int) -> None:
        self.spec = spec
        self.needs_models = True
        self.in_flight = capacity(spec.teacher)
        self.guess: Usage = dearest(spec.teacher, spec.sampling.max_tokens)
        self._seed = seed
        self._teacher: ChatModel

    def open(self, models: Mapping[str, ChatModel]) -> None:
        """The teacher."""
        self._teacher = models["teacher"]

    async def close(self) -> None:
        """Nothing is held."""

    def units(self, row: ProblemRow) -> list[Unit]:
        """One for each sample."""
        return [self._unit(row, number) for number in range(self.spec.samples)]

    def _unit(self, row: ProblemRow, number: int) -> Unit:
        key = key_of("generate", row.id, row.problem, str(number))

        async def ask() -> dict[str, Any]:
            prompt = prompts.render("data/prove", self.spec.prompt, problem=row.problem)
            params = ChatParams.of(self.spec.sampling, seed=seed_of(self._seed, key))
            answer = await self._teacher.chat([{"role": "user", "content": prompt}], params)
            return asdict(candidate_of(answer, self._teacher.name))

        return Unit(key, row.id, ask)

    def finish(self, row: ProblemRow, ended: list[Recorded | None], tally: Tally) -> ProblemRow | None:
        """The row with its candidates behind those that it had; samples that were parked are missing."""
        made = [
            Candidate(**recorded.value) for recorded in ended if recorded is not None and recorded.value is not None
        ]
        tally.counts["candidates"] += len(made)
        tally.counts["candidates missing"] += self.spec.samples - len(made)
        for candidate in made:
            tally.counts[f"ended by {candidate.finish_reason or 'nothing said'}"] += 1
            tally.counts["without a proof"] += not candidate.proof
        return replace(row, candidates=[*row.candidates, *made])


def generate(spec: GenerateStage, place: Place) -> AskingStage:
    """The stage `generate`."""
    return AskingStage(place, Generate(spec, place.seed))
