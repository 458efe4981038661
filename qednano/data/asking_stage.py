"""A stage of a ProofDataset that asks models: all asking first, row by row resumable, then rows through what was said.

What a stage asks of a row and makes of the answers is an `Asker`; this module knows when to ask, what to report, what
becomes of parked rows, and when there are too many of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Protocol

from qednano import artifacts
from qednano.api.data_stages import AskingStage as AskingSpec
from qednano.api.language import LanguageModel
from qednano.data import shards
from qednano.data.answers import Answers, Recorded, Usage, answers_of, usage_of
from qednano.data.asking import Progress, Unit, ask_all, metered
from qednano.data.schema import ProblemRow
from qednano.data.shards import Build
from qednano.data.stage import Place, StageWork, Tally
from qednano.errors import DataError
from qednano.grading.registry import below
from qednano.llm.chat import ChatModel

_ASKED = "asked.json"
_REPORT_SECONDS = 1.0
_MOST_IN_FLIGHT = 4096


class Asker(Protocol):
    """What a stage asks of a row, and what it makes of the answers."""

    @property
    def spec(self) -> AskingSpec:
        """Budget and patience."""
        ...

    @property
    def needs_models(self) -> bool:
        """Whether a language model is asked at all."""
        ...

    @property
    def in_flight(self) -> int:
        """How many units may be open at once."""
        ...

    @property
    def guess(self) -> Usage:
        """What a unit may cost at most."""
        ...

    def open(self, models: Mapping[str, ChatModel]) -> None:
        """Take the models, by their field below the stage (as in teacher); called before any unit is asked."""

    async def close(self) -> None:
        """Free what `open` took."""

    def units(self, row: ProblemRow) -> list[Unit]:
        """The work of a row, the same whenever it is called; none for a row that needs no asking."""
        ...

    def finish(self, row: ProblemRow, ended: list[Recorded | None], tally: Tally) -> ProblemRow | None:
        """The row with what its units ended with, at least one of them well; None if it is dropped, in the tally."""
        ...


class AskingStage:
    """Any `Asker` as a stage."""

    def __init__(self, place: Place, asker: Asker) -> None:
        self.name = place.name
        self._place, self._asker = place, asker
        self._answers: Answers

    def prepare(self, work: StageWork) -> None:
        """Ask for what hasn't ended, then set the rows apart of which nothing ended well.

        Raises DataError if these are more than the spec allows, and what `ask_all` raises.
        """
        build = work.build
        build.check_fence()
        self._answers = Answers(answers_of(build.run_dir) / self.name)
        mark = work.folder / _ASKED
        if mark.exists():  # some shards are published: what they rest on must not change any more
            return
        with self._answers:
            progress = asyncio.run(self._ask(work))
        self._check_parked(progress)
        self._set_apart(work)
        artifacts.write_json(
            mark,
            {"rows": progress.rows, "parked": progress.parked, "usage": self._answers.usage.to_json()},
        )

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row with what was answered; dropped if it is parked."""
        ended = [self._answers.get(unit.key) for unit in self._asker.units(row)]
        for recorded in ended:
            if recorded is not None:
                tally.counts["prompt tokens"] += recorded.usage.prompt_tokens
                tally.counts["completion tokens"] += recorded.usage.completion_tokens
        if ended and not any(recorded is not None and not recorded.parked for recorded in ended):
            told = next((recorded for recorded in ended if recorded is not None), None)
            cause, detail = (told.cause, told.detail) if told else ("budget spent", "it was never asked")
            tally.drop(f"parked: {cause}", row, detail)
            return None
        return self._asker.finish(row, ended, tally)

    async def _ask(self, work: StageWork) -> Progress:
        opened = work.build.open_models() if self._asker.needs_models else nullcontext[Mapping[str, ChatModel]]({})
        async with opened as models:
            self._asker.open(metered(below(models, self._place.path)))
            try:
                return await ask_all(
                    (self._asker.units(row) for row in work.rows()),
                    self._answers,
                    total=work.total,
                    in_flight=min(self._asker.in_flight, _MOST_IN_FLIGHT),
                    budget=self._asker.spec.budget,
                    guess=self._asker.guess,
                    stage=self.name,
                    check=_Watch(work.build, self._answers).look,
                )
            finally:
                await self._asker.close()

    def _check_parked(self, progress: Progress) -> None:
        parked = progress.parked - progress.parked_by_budget
        most = self._asker.spec.max_parked_percent
        if parked * 100 > most * progress.total:
            causes = ", ".join(f"{count} {cause}" for cause, count in progress.causes.most_common(5))
            raise DataError(
                f"stage {self.name} parked {parked} of {progress.total} rows, more than maxParkedPercent {most} allows "
                f"({causes}); see the log for one of each, and change the model, its maxTokens or maxParkedPercent"
            )

    def _set_apart(self, work: StageWork) -> None:
        """Parked rows as they came in, in files that a ProofDataset can have as its source."""
        for number, batch in enumerate(shards.batches(self._parked(work))):
            shards.publish(work.folder / f"parked-{number:06d}.parquet", batch)

    def _parked(self, work: StageWork) -> Iterator[ProblemRow]:
        for row in work.build.watched(work.rows()):
            units = self._asker.units(row)
            if units and not any(self._answers.done(unit.key) for unit in units):
                yield row


class _Watch:
    """Between answers: is the job to stop, does it still own the folder, and what is to be told."""

    def __init__(self, build: Build, answers: Answers) -> None:
        self._build, self._answers = build, answers
        self._before = usage_of(answers.folder.parent, without=answers.folder.name)
        self._told = 0.0

    def look(self, progress: Progress) -> None:
        """Raises Stopped or Fenced."""
        self._build.check_stop()
        if time.monotonic() - self._told < _REPORT_SECONDS and progress.started:
            return
        self._told = time.monotonic()
        self._build.check_fence()
        usage = Usage()
        usage.add(self._before)
        usage.add(self._answers.usage)
        self._build.reporter.update(
            step=progress.rows,
            total=progress.total,
            metrics=usage.headlines() | {"parked": float(progress.parked)},
            message=progress.told(),
        )


def capacity(model: LanguageModel) -> int:
    """How many units keep a model busy: one beside each request that it takes at once, since units do more than ask."""
    if model.endpoint is not None:
        return 2 * model.endpoint.max_concurrent
    return 2 * model.server.replicas * model.server.max_concurrent


def dearest(model: LanguageModel, tokens: int) -> Usage:
    """What an answer of so many tokens costs; the prompt is not known here and left out."""
    usage = Usage(1, 0, tokens)
    if model.endpoint is not None and model.endpoint.price is not None:
        usage.cost = model.endpoint.price.output_per_million * tokens / 1000000
    return usage
