"""Runs one stage over rows in memory, with models that are played by functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from qednano.data.schema import ProblemRow
from qednano.data.shards import Build
from qednano.data.stage import Place, StageWork, Tally
from qednano.llm.chat import ChatAnswer
from qednano.progress import Reporter

PLACE = Place("stages/0/it", "it", seed=1)


@dataclass
class Played:
    """A model that answers with what `says` gives for the messages: a text, an answer, or an exception to raise."""

    says: Callable[[list], object]
    name: str = "played"
    heard: list = field(default_factory=list)

    async def chat(self, messages, params):
        self.heard.append((list(messages), params))
        said = self.says(list(messages))
        if isinstance(said, Exception):
            raise said
        if isinstance(said, ChatAnswer):
            return said
        return ChatAnswer(said, "stop", 10, 5, model=self.name, cost=Decimal("0.001"))


def build_with(folder, models: Mapping[str, Played] | None = None) -> Build:
    @contextlib.asynccontextmanager
    async def opened():
        yield {f"{PLACE.path}/{name}": model for name, model in (models or {}).items()}

    return Build(folder, Reporter(), lambda: None, lambda: None, opened)


def run_stage(stage, rows: list[ProblemRow], folder, **models: Played):
    """The rows that the stage lets through, its tally, and the build."""
    build = build_with(folder, models)
    work = StageWork(lambda: iter(rows), len(rows), folder / "work", build)
    work.folder.mkdir(exist_ok=True)
    stage.prepare(work)
    tally = Tally()
    left = [stage.apply(position, row, tally) for position, row in enumerate(rows)]
    return [row for row in left if row is not None], tally, build
