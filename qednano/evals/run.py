"""Runs an evaluation: every model on the same problems, through a scaffold, sample by sample.

A new sample is begun whenever a question could be asked and none waits, so servers stay full and memory flat. Calls
and graded samples are appended to the shard's files; the next process goes on from them, without asking anything that
was answered. This module computes no statistics.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from qednano import metrics
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, QedError, Stopped, Unavailable
from qednano.evals.calls import Journal, SampleKey, Status
from qednano.evals.lanes import Lanes
from qednano.evals.parts import Fence, Part, parts, rows_of, shard_of
from qednano.evals.scaffolds import Scaffold, Solution
from qednano.evals.scaffolds.interface import Solve
from qednano.evals.scores import SampleRow
from qednano.evals.tree import SOLVER, Asked, Bench, BranchFailed, Limits, Node, Sample
from qednano.grading.health import GraderHealth
from qednano.grading.interface import FULL_SCORE, Grade, Grader
from qednano.grading.patience import obtain_grade
from qednano.jsonl import RowWriter
from qednano.llm.served import Conversations
from qednano.progress import Reporter
from qednano.rl.pool import Pool, ServerRecord

log = logging.getLogger(__name__)

LOAD_SECONDS = 1800.0
_WATCH_SECONDS = 0.1
_REPORT_SECONDS = 0.5
_TELL_SECONDS = 5.0


@dataclass(frozen=True)
class Contender:
    """A model that is evaluated: what tables call it, and its folder; an endpoint has none."""

    name: str
    uri: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """What the first contender is a checkpoint of, which evaluation of it asks, and after which step it was kept."""

    training: str
    evaluation: str
    step: int


@dataclass(frozen=True)
class EvaluationConfig:
    """Who is evaluated on what, and how much at once. `capacity`: questions in flight, of this shard."""

    contenders: Sequence[Contender]
    problems: Sequence[ProblemRow]
    samples_per_problem: int
    capacity: int
    lanes: Mapping[str, int] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    total: Limits = field(default_factory=Limits)
    seed: int = 0
    shards: int = 1
    shard: int = 0
    checkpoint: Checkpoint | None = None

    @property
    def own(self) -> list[ProblemRow]:
        """The problems of this shard."""
        return [row for row in self.problems if shard_of(row.id, self.shards) == self.shard]


Work = tuple[ProblemRow, int]
"""A problem, and which of its samples."""


class Evaluation:
    """One shard of an evaluation. `graded` holds the score of each sample that is done; texts are on disk alone."""

    def __init__(
        self,
        config: EvaluationConfig,
        scaffold: Scaffold,
        grader: Grader,
        cast: Callable[[Contender, Conversations], Mapping[str, Asked]],
        run_dir: Path,
        reporter: Reporter,
        health: GraderHealth | None = None,
    ) -> None:
        self.config, self.scaffold, self.grader = config, scaffold, grader
        self._cast, self._reporter, self._health = cast, reporter, health
        self.pool = Pool(run_dir, "server")
        self.parts = parts(run_dir, config.shards)
        self.part: Part = self.parts[config.shard]
        self._next_report = self._next_tell = 0.0
        self._journal = Journal(self.part.calls, Fence(self.part))
        self.graded: dict[SampleKey, float] = {}
        self._running = {contender.name: RunningScore() for contender in config.contenders}
        for row in rows_of(self.part.samples):
            self._remember(SampleRow(**row))

    def _remember(self, row: SampleRow) -> None:
        if row.score is None:
            return  # asked for anew by the next process
        if row.key not in self.graded and row.model in self._running:
            self._running[row.model].add(row.problem, row.score / FULL_SCORE)
        self.graded[row.key] = row.score

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Draw and grade what is missing. Raises Stopped, ConfigError for a model that can't be served, Unavailable."""
        with self._journal, RowWriter(self.part.samples) as writer:
            self._journal.load(self._settled())
            async with self._conversations() as served, aiohttp.ClientSession() as session:
                for contender in self.config.contenders:
                    self._report(contender, always=True)
                    missing = list(self._missing(contender))
                    parts_: list[asyncio.Future[Any]] = [asyncio.ensure_future(_raise_when(stopping))]
                    main = asyncio.ensure_future(self._turn(contender, missing, writer, served))
                    if contender.uri:
                        self.pool.wanted_model = contender.uri
                        if self.config.shard == 0:
                            parts_.append(asyncio.ensure_future(self._keep_loaded(contender, session)))
                    await _first_of(main, parts_)
                    self._report(contender, always=True)

    async def _turn(
        self, contender: Contender, missing: Sequence[list[Work]], writer: RowWriter, served: Conversations
    ) -> None:
        """One contender's samples; the servers are its own until all shards are done with it."""
        if missing:
            await self._evaluate(contender, missing, writer, served)
        self.part.finish(contender.name)
        while late := [part.folder.name for part in self.parts if not part.finished(contender.name)]:
            self._report(contender, message=f"{contender.name}: waiting for {', '.join(late[:4])}")
            await asyncio.sleep(5 * _WATCH_SECONDS)

    def _settled(self) -> set[SampleKey]:
        """Samples whose calls nobody needs again: they are graded, and so is their whole cohort."""
        done = set(self.graded)
        for contender in self.config.contenders:
            for cohort in self._missing(contender):
                done -= {(contender.name, problem.id, index) for problem, index in cohort}
        return done

    def _missing(self, contender: Contender) -> Iterator[list[Work]]:
        """Cohorts of which a sample is not graded, first all first samples, then all second ones, and so on."""
        own = self.config.own
        for index in range(self.config.samples_per_problem):
            for start in range(0, len(own), self.scaffold.cohort):
                cohort = [(problem, index) for problem in own[start : start + self.scaffold.cohort]]
                if any((contender.name, problem.id, index) not in self.graded for problem, index in cohort):
                    yield cohort

    async def _evaluate(
        self, contender: Contender, missing: Sequence[list[Work]], writer: RowWriter, served: Conversations
    ) -> None:
        lanes = Lanes(self.config.capacity, self.config.lanes)
        bench = Bench(
            models=self._cast(contender, served),
            lanes=lanes,
            journal=self._journal,
            run_seed=self.config.seed,
            limits=self.config.limits,
            total=self.config.total,
            answered=lambda _: self._report(contender),
        )
        running: set[asyncio.Task[None]] = set()
        most = 2 * self.config.capacity // self.scaffold.cohort + 2  # cohorts that wait for nothing but their grades
        try:
            for age, cohort in enumerate(missing):
                await lanes.room()
                while len(running) >= most or any(task.done() for task in running):
                    running = await _settle_one(running)
                before = lanes.asked
                task = asyncio.create_task(self._cohort(contender, bench, cohort, age, writer))
                running.add(task)
                for _ in range(100):  # until its first questions stand in line
                    if task.done() or lanes.asked > before:
                        break
                    await asyncio.sleep(0)
            while running:
                running = await _settle_one(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _cohort(
        self, contender: Contender, bench: Bench, cohort: Sequence[Work], age: int, writer: RowWriter
    ) -> None:
        solve = self.scaffold.begin(len(cohort))
        tasks = [asyncio.create_task(self._sample(contender, bench, solve, work, age, writer)) for work in cohort]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for problem, index in cohort:
            self._journal.forget((contender.name, problem.id, index))

    async def _sample(
        self, contender: Contender, bench: Bench, solve: Solve, work: Work, age: int, writer: RowWriter
    ) -> None:
        problem, index = work
        sample = Sample(bench, contender.name, problem, index, age)
        try:
            solution = await solve(Node(sample))
        except BranchFailed as failure:
            if failure.status is Status.FAILED:
                raise Unavailable(f"{contender.name} gave no answer to problem {problem.id}: {failure}") from failure
            row = _unanswered(sample, failure)
        else:
            if sample.key in self.graded:
                return  # graded by an earlier process; it was solved again to lead its cohort along the same way
            row = _row(sample, solution, await self._grade(problem, solution))
        writer.append([asdict(row)])
        self._remember(row)
        metrics.EVAL_SAMPLES.labels(contender.name).inc()
        self._report(contender)

    async def _grade(self, problem: ProblemRow, solution: Solution) -> Grade:
        proof = solution.proof
        try:
            return await obtain_grade(self.grader, problem, proof.text, cut_off=proof.cut_off, health=self._health)
        except QedError as error:
            if error.reason != "BudgetSpent":
                raise
            return Grade(None, f"the grader's budget is spent: {error}")

    # -- the servers' model ---------------------------------------------------------------------------------------

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

    def _report(self, contender: Contender, always: bool = False, message: str = "") -> None:
        now = time.monotonic()
        if now < self._next_report and not always and not message:
            return
        self._next_report = now + _REPORT_SECONDS
        shown: dict[str, float] = {}
        for number, (name, running) in enumerate(self._running.items()):
            if running.samples:
                shown["score" if number == 0 else f"score:{name}"] = running.mean
                metrics.EVAL_SCORE.labels(name).set(running.mean)
                if number == 0 and self.config.checkpoint is not None:
                    metrics.CHECKPOINT_SCORE.labels(*astuple(self.config.checkpoint)).set(running.mean)
        shown |= self._spent()
        total = len(self.config.problems) * self.config.samples_per_problem
        done = self._running[contender.name].samples
        self._reporter.update(
            stage="Evaluating",
            unit="sample",
            step=len(self.graded) + int(sum(part.told().get("samples", 0) for part in self._others())),
            total=total * len(self.config.contenders),
            metrics=shown,
            message=message or f"{contender.name}: {done} of {total} samples",
        )

    def _others(self) -> list[Part]:
        return [part for part in self.parts if part is not self.part]

    def _spent(self) -> dict[str, float]:
        """Tokens and money, of all shards where this one reports for them."""
        total = self._journal.total
        numbers: dict[str, float] = {"tokens/in": total.prompt_tokens, "tokens/out": total.completion_tokens}
        if total.cost is not None and total.calls:
            numbers["cost"] = float(total.cost)
        now = time.monotonic()
        if self.config.shards > 1 and now >= self._next_tell:
            self._next_tell = now + _TELL_SECONDS
            self.part.tell({**numbers, "samples": len(self.graded)})
        if self.config.shard == 0:
            for part in self._others():
                told = part.told()
                for name in numbers:
                    numbers[name] += told.get(name, 0.0)
        return numbers

    def _conversations(self) -> Conversations:
        return Conversations(self.pool, SOLVER, 2 * self.config.capacity, self._waiting)

    def _waiting(self, seconds: float) -> None:
        if seconds >= 1.0:
            self._reporter.update(message=f"waiting for a server of the model, {seconds:.0f} s so far")


class RunningScore:
    """The mean over problems of the mean over samples, kept as samples come."""

    def __init__(self) -> None:
        self.samples, self._means_sum = 0, 0.0
        self._problems: dict[str, tuple[int, float]] = {}

    def add(self, problem: str, share: float) -> None:
        """One more sample's score, 0 to 1."""
        count, mean = self._problems.get(problem, (0, 0.0))
        new = mean + (share - mean) / (count + 1)
        self._problems[problem] = count + 1, new
        self._means_sum += new - mean
        self.samples += 1

    @property
    def mean(self) -> float:
        """0 to 1, of the problems that have a sample."""
        return self._means_sum / len(self._problems)


def _row(sample: Sample, solution: Solution, grade: Grade) -> SampleRow:
    model, problem, index = sample.key
    proof, spent = solution.proof, sample.spent
    details = grade.details if solution.belief is None else {**grade.details, "belief": round(solution.belief, 4)}
    return SampleRow(
        model=model,
        problem=problem,
        index=index,
        text=proof.text,
        proof=proof.text,
        score=grade.score,
        reason=grade.reason,
        details=json.dumps(details, ensure_ascii=False, sort_keys=True),
        finish_reason=proof.finish_reason,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        seconds=round(sample.seconds, 3),
        reasoning=proof.reasoning,
        calls=spent.calls,
        failed_calls=spent.failed,
        cost=None if spent.cost is None else float(spent.cost),
        stop=str(solution.stop),
        notes="\n".join(sample.notes),
        path=proof.path,
    )


def _unanswered(sample: Sample, failure: BranchFailed) -> SampleRow:
    """A sample without any proof: no zero, and not dropped in silence either."""
    model, problem, index = sample.key
    spent = sample.spent
    return SampleRow(
        model, problem, index, "", "", None, f"no answer: {failure}", "{}", "", spent.prompt_tokens,
        spent.completion_tokens, round(sample.seconds, 3), calls=spent.calls, failed_calls=spent.failed,
        cost=None if spent.cost is None else float(spent.cost), stop="NoAnswer",
        notes="\n".join([*sample.notes, str(failure)]),
    )  # fmt: skip


async def _settle_one(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for one of them, raise what it raised, and return the others."""
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return rest


async def _first_of(main: asyncio.Future[Any], watchers: Sequence[asyncio.Future[Any]]) -> None:
    """Until `main` ends, or a watcher, which ends by what went wrong."""
    everything = [main, *watchers]
    try:
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        for part in everything:
            if part.done():
                part.result()
    finally:
        for part in everything:
            part.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


async def _raise_when(stopping: Callable[[], bool]) -> None:
    while not stopping():
        await asyncio.sleep(_WATCH_SECONDS)
    raise Stopped("the evaluation was asked to stop; graded samples are kept and the next attempt goes on from them")
