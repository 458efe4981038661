"""The filter by a language model: a typed verdict on each row, and rules that say which verdict drops it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from qednano.api.data_stages import LlmFilterStage, VerdictRule
from qednano.data.answers import Recorded, Usage, key_of
from qednano.data.asking import Unit, seed_of
from qednano.data.asking_stage import AskingStage, capacity, dearest
from qednano.data.schema import ProblemRow
from qednano.data.stage import Place, Tally
from qednano.data.typed import ask_typed, read_as
from qednano.llm import prompts
from qednano.llm.chat import ChatModel, ChatParams

TRIES = 2  # the second with the mistake named
BAD_VERDICT = "unreadable verdict"


class Verdict(BaseModel):
    """What the model finds in a row. The reason comes first, so that it is thought of before anything is decided."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: str = Field(max_length=400, description="In a sentence or two, what decides the following.")
    incomplete: bool = Field(description="A part of the statement is missing, such as a figure or a definition.")
    wrong: bool = Field(description="What is to be proved is false, or no answer exists.")
    gaps: bool = Field(description="There is no solution, or none without a gap or an error in an essential step.")
    disagreement: bool = Field(description="The solutions contradict each other in an answer or a claim.")
    computational: bool = Field(description="Nothing is to be proved: a calculation alone answers it.")
    difficulty: int = Field(ge=1, le=10, description="1 AMC, 4 national, 7 hard national or easy IMO, 10 hardest IMO.")

    def finds(self, rule: VerdictRule) -> bool:
        """Whether a rule applies."""
        return bool(getattr(self, rule.value.lower()))


_TOLD = {
    VerdictRule.INCOMPLETE: "its statement lacks a part",
    VerdictRule.GAPS: "no solution of it is complete",
    VerdictRule.WRONG: "what it asks for is false",
    VerdictRule.DISAGREEMENT: "its solutions contradict each other",
    VerdictRule.COMPUTATIONAL: "nothing in it is to be proved",
}


class LlmFilter:
    """What the filter asks and drops; an `Asker`."""

    def __init__(self, spec: LlmFilterStage, seed: int) -> None:
        self.spec = spec
        self.needs_models = True
        self.in_flight = capacity(spec.model)
        self.guess: Usage = dearest(spec.model, TRIES * spec.sampling.max_tokens)
        self._seed = seed
        self._schema = Verdict.model_json_schema()
        self._model: ChatModel

    def open(self, models: Mapping[str, ChatModel]) -> None:
        """The model that judges."""
        self._model = models["model"]

    async def close(self) -> None:
        """Nothing is held."""

    def units(self, row: ProblemRow) -> list[Unit]:
        """One verdict."""
        solutions = [*([row.reference] if row.reference else []), *row.solutions]
        key = key_of("llm-filter", row.id, row.problem, *solutions)

        async def ask() -> dict[str, Any]:
            prompt = prompts.render(
                "data/llm_filter",
                self.spec.prompt,
                problem=row.problem,
                solutions=solutions,
                schema=json.dumps(self._schema, ensure_ascii=False),
            )
            params = ChatParams.of(self.spec.sampling, seed=seed_of(self._seed, key), schema=self._schema)
            verdict = await ask_typed(
                self._model,
                [{"role": "user", "content": prompt}],
                params,
                read_as(Verdict),
                tries=TRIES,
                cause=BAD_VERDICT,
            )
            return verdict.model_dump()

        return [Unit(key, row.id, ask)]

    def finish(self, row: ProblemRow, ended: list[Recorded | None], tally: Tally) -> ProblemRow | None:
        """The row with its difficulty, unless the verdict drops it."""
        assert ended[0] is not None
        verdict = Verdict.model_validate(ended[0].value)
        tally.counts[f"difficulty {verdict.difficulty}"] += 1
        for rule in self.spec.drop:
            if verdict.finds(rule):
                tally.drop(rule.value, row, f"{_TOLD[rule]}: {verdict.reason}")
                return None
        keep = self.spec.difficulty
        if not keep.min <= verdict.difficulty <= keep.max:
            tally.drop("Difficulty", row, f"{verdict.difficulty} of 10, kept are {keep.min} to {keep.max}")
            return None
        return replace(row, difficulty=verdict.difficulty)


def llm_filter(spec: LlmFilterStage, place: Place) -> AskingStage:
    """The stage `llmFilter`."""
    return AskingStage(place, LlmFilter(spec, place.seed))
