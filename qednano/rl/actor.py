"""The actor: draws problems, has them answered in groups, grades, and publishes whole groups to the stream.

It runs ahead of the trainer only as far as samples stay fresh enough to be learned from. A sample without a grade is
dropped and counted, never taken for a zero. This module knows nothing of tensors, tokenizers or how servers start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from qednano import metrics
from qednano.data.schema import ProblemRow
from qednano.errors import DataError
from qednano.grading.health import GraderHealth
from qednano.grading.interface import Grade, Grader
from qednano.grading.patience import obtain_grade
from qednano.llm.completions import SamplingParams
from qednano.llm.thinking import written_proof
from qednano.progress import Reporter
from qednano.rl.backpressure import Ahead, Pace, decodable, room
from qednano.rl.bill import Bill
from qednano.rl.curriculum import Curriculum, group_id, undecided
from qednano.rl.generation import Drawn, request_seed
from qednano.rl.groups import GroupResult, barren, group_outcome, judge, window_metrics
from qednano.rl.reasoning_cache import ReasoningCache
from qednano.rl.rewards import RewardShaping
from qednano.rl.rollouts import Rollouts
from qednano.rl.sample_log import SampleLog
from qednano.rl.stream import Group, Sample, SampleStream
from qednano.rl.weights import latest_version

log = logging.getLogger(__name__)

Item = TypeVar("Item")
TICK_SECONDS = 0.05
REPORT_SECONDS = 1.0
HOPELESS_GROUPS = 64  # groups in a row of which no sample could be graded
_WINDOW = 64  # groups over which means are reported


@dataclass(frozen=True)
class ActorConfig:
    """The actor's part of an RLRun; lengths in tokens, staleness in optimizer steps."""

    pace: Pace
    max_steps: int
    drop_zero_variance: bool
    shaping: RewardShaping
    sampling: SamplingParams
    max_model_length: int
    seed: int = 0
    pass_score: int = 6
    groups_per_visit: int = 1  # more than one with a reasoning cache


@dataclass(frozen=True)
class Parts:
    """What the actor works with beside its pool; `cache`, `reference` and `bill` are optional."""

    curriculum: Curriculum
    grader: Grader
    health: GraderHealth
    stream: SampleStream
    sample_log: SampleLog
    cache: ReasoningCache | None = None
    reference: Rollouts | None = None
    bill: Bill | None = None


class Actor:
    """One actor of a run; `run` returns when the trainer has done its last step."""

    def __init__(
        self,
        config: ActorConfig,
        parts: Parts,
        rollouts: Rollouts,
        run_dir: Path,
        reporter: Reporter,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.parts, self.rollouts, self.run_dir = config, parts, rollouts, run_dir
        self.stream, self.pool = parts.stream, rollouts.pool
        self._reporter, self._fence = reporter, fence
        self._numbers = undecided(self.stream.decided())
        self._writes: set[asyncio.Future[object]] = set()
        self._version = 0
        self._in_flight = self._walking = 0  # groups; of them those whose state is being made
        self._decodable = 1
        self.outcomes: Counter[str] = Counter()
        self._ungraded_in_a_row = 0
        self._barren = ""
        self._recent: deque[GroupResult] = deque(maxlen=_WINDOW)
        self._tokens: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._next_report = 0.0

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Sample until the trainer is done or `stopping()`. Raises Unavailable or DataError when it can't go on."""
        running: set[asyncio.Task[GroupResult]] = set()
        done: set[asyncio.Task[GroupResult]] = set()
        try:
            while not stopping() and not self.finished():
                for _ in range(await self._room(len(running))):
                    running.add(asyncio.create_task(self._group(await self._next_number())))
                done, self._in_flight = set(), len(running)
                if running:
                    done, running = await asyncio.wait(
                        running, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                else:
                    await asyncio.sleep(TICK_SECONDS)
                for task in done:
                    self._account(task.result())
                await self._report(len(running))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, *done, return_exceptions=True)
            await asyncio.gather(*self._writes, return_exceptions=True)
            if self.parts.bill is not None:
                self.parts.bill.save()
            if self.parts.curriculum.rates is not None:
                self.parts.curriculum.rates.save()
            if self.parts.cache is not None:
                await self.parts.cache.close()

    def finished(self) -> bool:
        """Whether the trainer has published its last weights."""
        self._version = latest_version(self.run_dir)
        # what is drawn with older weights than these would be too stale before it is there
        self.pool.wanted_version = self._version - self.config.pace.max_staleness
        return self._version >= self.config.max_steps

    async def _room(self, in_flight: int) -> int:
        queued, held = await asyncio.to_thread(self.stream.backlog)
        servers = self.pool.fresh()
        if not servers:
            # one request that waits for a server and says so; but servers that only load new weights will be there
            return 1 if in_flight == 0 and not self.pool.servers() else 0
        lag = max(0, self._version - min(server.version for server in servers))
        self._decodable = decodable(len(servers), self.config.pace)
        return room(Ahead(in_flight, queued, held, len(servers), lag, self._walking), self.config.pace)

    @contextlib.contextmanager
    def _walks(self) -> Iterator[None]:
        self._walking += 1
        try:
            yield
        finally:
            self._walking -= 1

    async def _place(self) -> None:
        """Wait until the servers can decode one more group: where its samples would age, its state is made anew."""
        while self._in_flight - self._walking >= self._decodable:
            await asyncio.sleep(TICK_SECONDS)

    # -- one group --------------------------------------------------------------------------------------------------

    async def _next_number(self) -> int:
        """The next group's number; those whose problem the curriculum passes over are discarded."""
        while True:
            number = next(self._numbers)
            if self.parts.curriculum.wanted(number // self.config.groups_per_visit):
                return number
            self.outcomes["passed-over"] += 1
            metrics.GROUPS.labels("passed-over").inc()
            await self._write(self.stream.discard, group_id(number))

    async def _group(self, number: int) -> GroupResult:
        config, cache = self.config, self.parts.cache
        identity = group_id(number)
        visit, slot = divmod(number, config.groups_per_visit)
        row = self.parts.curriculum.problem(visit)
        state = None
        if cache is not None:
            with self._walks():
                await cache.made(visit, row)
                await self._place()
            state = await cache.state(visit, slot, row)
            message = cache.message(row, state)
        else:
            message = row.problem
        prompt = await self.rollouts.tokenise(message)
        turn, summary = (state.cycles, state.summary) if state else (0, "")
        space = config.max_model_length - len(prompt.ids)
        if space < 1:
            return await self._close(GroupResult(identity, row.id, "prompt-too-long", turn=turn, summary=summary))
        sampling = replace(
            config.sampling,
            max_tokens=min(space, config.sampling.max_tokens),
            seed=request_seed(config.seed, "group", number),
        )
        batch = await self.rollouts.complete(prompt.ids, sampling, config.pace.group_size)
        texts = [written_proof(choice.text, prompt.reasoning) for choice in batch.choices]
        if cache is not None and state is not None:
            texts = [cache.graded_text(state, text) for text in texts]
        judged = judge(batch, prompt, await self._grades(row, batch, texts), texts, config.shaping)
        kept = [item.sample for item in judged if item.outcome == "kept"]
        outcome = group_outcome(
            kept, self._version, max_staleness=config.pace.max_staleness, drop_zero_variance=config.drop_zero_variance
        )
        result = GroupResult(identity, row.id, outcome, judged, turn, summary)
        if outcome == "published":
            samples = await self._with_reference(kept)
            await self._write(self._publish, Group(identity, row.id, samples))
        return await self._close(result, batch.seconds)

    async def _grades(self, row: ProblemRow, batch: Drawn, texts: Sequence[str]) -> list[Grade]:
        """A grade each, some without a score; waits while the grader fails too often."""
        parts = self.parts
        return await asyncio.gather(
            *(
                obtain_grade(parts.grader, row, text, cut_off=choice.finish_reason == "length", health=parts.health)
                for choice, text in zip(batch.choices, texts, strict=True)
            )
        )

    async def _with_reference(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with a served reference policy's log-probs, if there is one."""
        reference = self.parts.reference
        if reference is None:
            return list(samples)
        found = await asyncio.gather(
            *(
                reference.score(len(sample.prompt_ids), [*sample.prompt_ids, *sample.completion_ids])
                for sample in samples
            )
        )
        return [replace(sample, reference=logprobs) for sample, logprobs in zip(samples, found, strict=True)]

    def _publish(self, group: Group) -> None:
        self._fence()
        self.stream.publish(group)

    async def _write(self, write: Callable[[Item], object], item: Item) -> None:
        """Write in a thread; a cancelled task leaves the write to be waited for at the end of `run`."""
        writing = asyncio.ensure_future(asyncio.to_thread(write, item))
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)
        await asyncio.shield(writing)

    async def _close(self, result: GroupResult, seconds: float = 0.0) -> GroupResult:
        if result.outcome != "published":
            await self._write(self.stream.discard, result.id)
        if self.parts.curriculum.rates is not None:
            scores = [item.grade.score for item in result.samples if item.grade.score is not None]
            self.parts.curriculum.rates.update(result.problem_id, [score >= self.config.pass_score for score in scores])
        self.parts.sample_log.write(result, seconds)
        return result

    # -- accounts -----------------------------------------------------------------------------------------------------

    def _account(self, result: GroupResult) -> None:
        self.outcomes[result.outcome] += 1
        metrics.GROUPS.labels(result.outcome).inc()
        self._recent.append(result)
        tokens = sum(len(item.sample.completion_ids) for item in result.samples)
        self._tokens.append((time.monotonic(), tokens))
        metrics.TOKENS_GENERATED.inc(tokens)
        for item in result.samples:
            if item.outcome != "ungraded":
                metrics.REWARDS.observe(item.sample.reward)
            metrics.RESPONSE_TOKENS.observe(len(item.sample.completion_ids))
            if item.sample.finish_reason == "length":
                metrics.TRUNCATED.inc()
        hopeless = bool(result.samples) and all(item.outcome == "ungraded" for item in result.samples)
        self._ungraded_in_a_row = self._ungraded_in_a_row + 1 if hopeless else 0
        if self._ungraded_in_a_row >= HOPELESS_GROUPS:
            why = result.samples[0].grade.reason
            raise DataError(f"no sample of the last {HOPELESS_GROUPS} groups could be graded: {why}")
        if self.outcomes["prompt-too-long"] > 1000 and not self.outcomes["published"]:
            raise DataError("more than 1,000 prompts fill spec.rollout.maxModelLength; raise it or filter the dataset")

    async def _report(self, in_flight: int) -> None:
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_SECONDS
        while len(self._tokens) > 2 and now - self._tokens[0][0] > 30:
            self._tokens.popleft()
        span = max(1e-9, now - self._tokens[0][0])
        shown = window_metrics(self._recent, self._version)
        before, self._barren = self._barren, barren(shown, _WINDOW) if len(self._recent) == _WINDOW else ""
        if self._barren and not before:
            log.warning("%s", self._barren)
        servers, (queued, _) = len(self.pool.servers()), await asyncio.to_thread(self.stream.backlog)
        metrics.POOL_SERVERS.set(servers)
        metrics.QUEUE_DEPTH.set(queued)
        metrics.GROUPS_IN_FLIGHT.set(in_flight)
        self._set_rewards(shown)
        if self.parts.curriculum.rates is not None:
            await asyncio.to_thread(self.parts.curriculum.rates.save)
        used = {}
        if self.parts.bill is not None:
            used = self.parts.bill.headlines()
            await asyncio.to_thread(self.parts.bill.save)
        published = self.outcomes["published"]
        tally = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        self._reporter.update(
            stage="Sampling" if published or in_flight else "Waiting",
            unit="group",
            step=published,
            total=self.config.max_steps * self.config.pace.problems_per_step,
            metrics={
                **shown,
                **used,
                "tokensPerSecond": sum(tokens for _, tokens in list(self._tokens)[1:]) / span,
                "servers": servers,
                "queuedGroups": queued,
                "groupsInFlight": in_flight,
                "graderFailurePercent": self.parts.health.failure_percent,
            },
            message=(self._barren or tally) if servers else None,
        )

    def _set_rewards(self, shown: dict[str, float]) -> None:
        metrics.REWARD_MEAN.set(shown.get("reward", 0.0))
        metrics.REWARD_STD.set(shown.get("rewardStd", 0.0))
        metrics.ZERO_VARIANCE.set(shown.get("zeroVarianceShare", 0.0))
        for turn in {result.turn for result in self._recent}:
            rewards = [
                item.sample.reward
                for result in self._recent
                for item in result.samples
                if result.turn == turn and item.outcome != "ungraded"
            ]
            if rewards:
                metrics.TURN_REWARD.labels(str(turn)).set(sum(rewards) / len(rewards))
