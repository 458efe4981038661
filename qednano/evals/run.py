"""Runs an evaluation: every model on the same problems, sample by sample, and goes on where it was stopped.

Samples are appended to `samples/evaluation.jsonl` under (model, problem, index) as soon as they are graded. A sample
without a grade is asked for anew by the next attempt. This module computes no statistics.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from qednano import metrics
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, DataError, Stopped
from qednano.evals.scaffolds import Answer, Scaffold
from qednano.evals.scores import SampleRow, problem_means
from qednano.grading.interface import Grade, Grader
from qednano.grading.patience import obtain_grade
from qednano.jsonl import RowWriter, read_rows
from qednano.progress import Reporter
from qednano.rl.pool import Pool, ServerRecord
from qednano.rl.rollouts import Rollouts

log = logging.getLogger(__name__)

LOAD_SECONDS = 1800.0
_WATCH_SECONDS = 0.1
_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Contender:
    """A model that is evaluated: what tables call it, and its folder."""

    name: str
    uri: str


@dataclass(frozen=True)
class EvaluationConfig:
    """Who is evaluated on what; `server_sequences` is how many samples all servers together decode at once."""

    contenders: Sequence[Contender]
    problems: Sequence[ProblemRow]
    samples_per_problem: int
    server_sequences: int


class Evaluation:
    """One evaluation in one run's folder; `rows` holds what is done so far."""

    def __init__(
        self, config: EvaluationConfig, scaffold: Scaffold, grader: Grader, run_dir: Path, reporter: Reporter
    ) -> None:
        self.config, self.scaffold, self.grader, self._reporter = config, scaffold, grader, reporter
        self.pool = Pool(run_dir, "server")
        self.rollouts = Rollouts(self.pool, waiting=self._waiting)
        self.path = run_dir / "samples" / "evaluation.jsonl"
        self._next_report = 0.0
        known = {SampleRow(**row).key: SampleRow(**row) for row in read_rows(self.path)}
        self.rows = {key: row for key, row in known.items() if row.score is not None}

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Draw and grade what is missing. Raises Stopped, ConfigError for a model that can't be served, Unavailable."""
        async with self.rollouts, aiohttp.ClientSession() as session:
            with RowWriter(self.path) as writer:
                for contender in self.config.contenders:
                    self._report(contender, always=True)
                    missing = list(self._missing(contender))
                    if missing:
                        await self._evaluate(contender, missing, writer, session, stopping)
                    self._report(contender, always=True)

    def _missing(self, contender: Contender) -> Iterator[tuple[ProblemRow, list[int]]]:
        for problem in self.config.problems:
            indices = range(self.config.samples_per_problem)
            absent = [index for index in indices if (contender.name, problem.id, index) not in self.rows]
            for start in range(0, len(absent), self.config.server_sequences):
                yield problem, absent[start : start + self.config.server_sequences]

    async def _evaluate(
        self,
        contender: Contender,
        missing: Sequence[tuple[ProblemRow, list[int]]],
        writer: RowWriter,
        session: aiohttp.ClientSession,
        stopping: Callable[[], bool],
    ) -> None:
        self.pool.wanted_model = contender.uri
        work = iter(missing)
        at_once = max(1, self.config.server_sequences // max(len(indices) for _, indices in missing))
        workers = [asyncio.create_task(self._work(contender, work, writer)) for _ in range(at_once)]
        watchers = [
            asyncio.create_task(self._keep_loaded(contender, session)),
            asyncio.create_task(_raise_when(stopping)),
        ]
        # the first of them to end is the last worker, or something that went wrong
        parts: list[asyncio.Future[Any]] = [asyncio.gather(*workers), *watchers]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()
        finally:
            for task in [*workers, *watchers]:
                task.cancel()
            await asyncio.gather(*parts, *workers, return_exceptions=True)

    async def _work(
        self, contender: Contender, work: Iterator[tuple[ProblemRow, list[int]]], writer: RowWriter
    ) -> None:
        for problem, indices in work:
            answers = await self.scaffold.answers(self.rollouts, problem, len(indices))
            if not answers:
                raise DataError(
                    f"the prompt of problem {problem.id} fills spec.server.maxModelLength; raise it or drop the problem"
                )
            grades = await asyncio.gather(*(obtain_grade(self.grader, problem, item.proof) for item in answers))
            rows = [
                _row(contender, problem, index, answer, grade)
                for index, answer, grade in zip(indices, answers, grades, strict=True)
            ]
            writer.append([asdict(row) for row in rows])
            self.rows |= {row.key: row for row in rows}
            metrics.EVAL_SAMPLES.labels(contender.name).inc(len(rows))
            self._report(contender)

    async def _keep_loaded(self, contender: Contender, session: aiohttp.ClientSession) -> None:
        """See to it that every server has the contender's model, also one that came or restarted meanwhile."""
        while True:
            others = [server for server in self.pool.servers() if server.model != contender.uri]
            await asyncio.gather(*(self._load(contender, server, session) for server in others))
            await asyncio.sleep(_WATCH_SECONDS)

    async def _load(self, contender: Contender, server: ServerRecord, session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(
                f"{server.url}/qednano/load",
                json={"uri": contender.uri},
                timeout=aiohttp.ClientTimeout(total=LOAD_SECONDS),
            ) as answer:
                if answer.status == 409:
                    raise ConfigError(f"{contender.name} can't be evaluated here: {(await answer.json())['error']}")
                if answer.status != 200:
                    log.warning("%s did not load %s: %s", server.name, contender.name, (await answer.text())[:300])
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("%s does not answer (%s); it is asked again to load %s", server.name, error, contender.name)

    # -- progress ---------------------------------------------------------------------------------------------------

    def _report(self, contender: Contender, always: bool = False) -> None:
        now = time.monotonic()
        if now < self._next_report and not always:
            return
        self._next_report = now + _REPORT_SECONDS
        by_model = defaultdict(list)
        for row in self.rows.values():
            by_model[row.model].append(row)
        shown = {}
        for number, other in enumerate(self.config.contenders):
            means = problem_means(by_model[other.name]).values()
            if means:
                score = sum(means) / len(means)
                shown["score" if number == 0 else f"score:{other.name}"] = score
                metrics.EVAL_SCORE.labels(other.name).set(score)
        total = len(self.config.problems) * self.config.samples_per_problem
        self._reporter.update(
            stage="Evaluating",
            unit="sample",
            step=len(self.rows),
            total=total * len(self.config.contenders),
            metrics=shown,
            message=f"{contender.name}: {len(by_model[contender.name])} of {total} samples",
        )

    def _waiting(self, seconds: float) -> None:
        if seconds >= 1.0:
            self._reporter.update(message=f"waiting for a server of the model, {seconds:.0f} s so far")


def _row(contender: Contender, problem: ProblemRow, index: int, answer: Answer, grade: Grade) -> SampleRow:
    return SampleRow(
        model=contender.name,
        problem=problem.id,
        index=index,
        text=answer.text,
        proof=answer.proof,
        score=grade.score,
        reason=grade.reason,
        details=json.dumps(grade.details, ensure_ascii=False, sort_keys=True),
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        seconds=round(answer.seconds, 3),
    )


async def _raise_when(stopping: Callable[[], bool]) -> None:
    while not stopping():
        await asyncio.sleep(_WATCH_SECONDS)
    raise Stopped("the evaluation was asked to stop; graded samples are kept and the next attempt goes on from them")
