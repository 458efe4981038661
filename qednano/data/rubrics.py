"""Marking schemes by a language model: from problem and official solution, sound or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qednano.api.data_stages import RubricStage
from qednano.data.answers import Recorded, Usage, key_of
from qednano.data.asking import Unit, seed_of
from qednano.data.asking_stage import AskingStage, capacity, dearest
from qednano.data.schema import ProblemRow
from qednano.data.stage import Place, Tally
from qednano.data.typed import ask_typed, json_text
from qednano.errors import DataError
from qednano.grading.rubric import Rubric
from qednano.llm import prompts
from qednano.llm.chat import ChatModel, ChatParams

UNSOUND = "unsound scheme"


def read_rubric(answer: str) -> Rubric:
    """The scheme in an answer. DataError says what is wrong with it: sums, paths, or no step that is critical."""
    rubric = Rubric.parse(json_text(answer))
    if not any(checkpoint.critical for checkpoint in rubric.all_checkpoints()):
        raise DataError(
            "the marking scheme is not valid: no checkpoint is critical; mark those that the proof rests on"
        )
    return rubric


class Rubrics:
    """What is asked for a scheme; an `Asker`."""

    def __init__(self, spec: RubricStage, seed: int) -> None:
        self.spec = spec
        self.needs_models = True
        self.in_flight = capacity(spec.model)
        self.guess: Usage = dearest(spec.model, spec.tries * spec.sampling.max_tokens)
        self._seed = seed
        self._schema = Rubric.model_json_schema()
        self._model: ChatModel

    def open(self, models: Mapping[str, ChatModel]) -> None:
        """The model that writes the schemes."""
        self._model = models["model"]

    async def close(self) -> None:
        """Nothing is held."""

    def units(self, row: ProblemRow) -> list[Unit]:
        """One scheme, unless the row has one or lacks the official solution."""
        if not row.reference or (row.rubric and not self.spec.overwrite):
            return []
        reference, key = row.reference, key_of("rubrics", row.id, row.problem, row.reference)

        async def ask() -> dict[str, Any]:
            prompt = prompts.render(
                "data/rubric",
                self.spec.prompt,
                problem=row.problem,
                reference=reference,
                schema=json.dumps(self._schema, ensure_ascii=False),
            )
            params = ChatParams.of(self.spec.sampling, seed=seed_of(self._seed, key), schema=self._schema)
            rubric = await ask_typed(
                self._model,
                [{"role": "user", "content": prompt}],
                params,
                read_rubric,
                tries=self.spec.tries,
                cause=UNSOUND,
            )
            return rubric.model_dump()

        return [Unit(key, row.id, ask)]

    def finish(self, row: ProblemRow, ended: list[Recorded | None], tally: Tally) -> ProblemRow | None:
        """The row with its scheme; dropped if it has none and no official solution to make one from."""
        if not ended:
            if not row.rubric:
                tally.drop("NoReference", row, "it has no official solution to make a marking scheme from")
                return None
            tally.counts["schemes kept"] += 1
            return row
        assert ended[0] is not None
        tally.counts["schemes written"] += 1
        rubric = Rubric.model_validate(ended[0].value)
        return replace(row, rubric=rubric.model_dump_json(exclude_defaults=True))


def rubrics(spec: RubricStage, place: Place) -> AskingStage:
    """The stage `rubrics`."""
    return AskingStage(place, Rubrics(spec, place.seed))
