"""The actor: draws problems, has them answered in groups, grades, and publishes whole groups to the stream.

It runs ahead of the trainer only as far as samples stay fresh enough to be learned from. A sample without a grade is
dropped and counted, never taken for a zero. This module knows nothing of tensors, tokenizers or how servers start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qednano import metrics
from qednano.api.rlrun import Overlong
from qednano.errors import DataError
from qednano.grading.interface import Grade, Grader
from qednano.grading.patience import obtain_grade
from qednano.llm.client import CompletionBatch, Prompt, SamplingParams, written_proof
from qednano.progress import Reporter
from qednano.rl.curriculum import Curriculum, group_id, undecided
from qednano.rl.pool import Pool
from qednano.rl.rollouts import Rollouts
from qednano.rl.sample_log import SampleLog
from qednano.rl.stream import FileStream, Group, Sample
from qednano.rl.weights import latest

log = logging.getLogger(__name__)

Item = TypeVar("Item")
TICK_SECONDS = 0.05
REPORT_SECONDS = 1.0
HOPELESS_GROUPS = 64  # groups in a row of which no sample could be graded
_WINDOW = 64  # groups over which means are reported


@dataclass(frozen=True)
class ActorConfig:
    """The actor's part of an RLRun; lengths in tokens, staleness in optimizer steps."""

    group_size: int
    problems_per_step: int
    max_steps: int
    max_staleness: int
    concurrent_groups: int
    drop_zero_variance: bool
    overlong: Overlong
    sampling: SamplingParams
    max_model_length: int
    server_sequences: int


@dataclass(frozen=True)
class Graded:
    """One completion with its grade and what became of it: kept, ungraded or overlong."""

    sample: Sample
    grade: Grade
    text: str
    outcome: str


@dataclass(frozen=True)
class GroupResult:
    """A finished group and its outcome: published, or why it was not."""

    id: str
    problem_id: str
    outcome: str
    samples: Sequence[Graded] = ()


def judge(
    batch: CompletionBatch, prompt: Prompt, grades: Sequence[Grade], texts: Sequence[str], overlong: Overlong
) -> list[Graded]:
    """Samples with rewards. Cut off by the token limit: as graded, reward 0 (Penalty), or left out (Filter)."""
    judged = []
    for choice, grade, text in zip(batch.choices, grades, texts, strict=True):
        cut = choice.finish_reason == "length"
        outcome = "kept"
        if grade.reward is None:
            outcome = "ungraded"
        elif cut and overlong is Overlong.FILTER:
            outcome = "overlong"
        reward = 0.0 if cut and overlong is Overlong.PENALTY else grade.reward or 0.0
        sample = Sample(
            prompt_ids=prompt.ids,
            completion_ids=choice.token_ids,
            logprobs=choice.logprobs,
            reward=reward,
            version_start=batch.version_start,
            version_end=batch.version_end,
            finish_reason=choice.finish_reason,
        )
        judged.append(Graded(sample, grade, text, outcome))
    return judged


def group_outcome(kept: Sequence[Sample], trainer_version: int, config: ActorConfig) -> str:
    """What to do with a group: published, too-few, zero-variance, or stale."""
    if len(kept) < 2:
        return "too-few"
    if config.drop_zero_variance and len({sample.reward for sample in kept}) == 1:
        return "zero-variance"
    if trainer_version - min(sample.oldest_version for sample in kept) > config.max_staleness:
        return "stale"
    return "published"


def room(in_flight: int, queued: int, held: int, servers: int, config: ActorConfig) -> int:
    """How many groups may be started now.

    A group started now is learned from after all those ahead of it; each `problems_per_step` of them is one more
    optimizer step between the weights it is drawn with and those that learn from it. So no more are ahead than
    `max_staleness` allows, nor than keep the trainer busy: the step under way and the next one. Nor is more started
    than the servers can decode at once: it would wait there and age.
    """
    step = config.problems_per_step
    ahead = min(step * (config.max_staleness + 1), max(2 * step, config.concurrent_groups))
    at_once = min(config.concurrent_groups, max(1, servers * config.server_sequences // config.group_size))
    return max(0, min(ahead - (in_flight + queued + held), at_once - in_flight))


class Actor:
    """One actor of a run; `run` returns when the trainer has done its last step."""

    def __init__(
        self,
        config: ActorConfig,
        curriculum: Curriculum,
        grader: Grader,
        run_dir: Path,
        role: str,
        sample_log: SampleLog,
        reporter: Reporter,
    ) -> None:
        self.config, self.curriculum, self.grader, self.run_dir = config, curriculum, grader, run_dir
        self.stream = FileStream(run_dir)
        self.pool = Pool(run_dir, role)
        self.rollouts = Rollouts(self.pool, waiting=self._waiting)
        self._log, self._reporter = sample_log, reporter
        self._ordinals = undecided(self.stream.decided())
        self._writes: set[asyncio.Future[object]] = set()
        self._version = 0
        self.outcomes: Counter[str] = Counter()
        self._ungraded_in_a_row = 0
        self._recent: deque[GroupResult] = deque(maxlen=_WINDOW)
        self._tokens: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._next_report = 0.0

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Sample until the trainer is done or `stopping()`. Raises Unavailable or DataError when it can't go on."""
        running: set[asyncio.Task[GroupResult]] = set()
        done: set[asyncio.Task[GroupResult]] = set()
        async with self.rollouts:
            try:
                while not stopping() and not self.finished():
                    for _ in range(self._room(len(running))):
                        running.add(asyncio.create_task(self._group(next(self._ordinals))))
                    done = set()
                    if running:
                        done, running = await asyncio.wait(
                            running, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                        )
                    else:
                        await asyncio.sleep(TICK_SECONDS)
                    for task in done:
                        self._account(task.result())
                    self._report(len(running))
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, *done, return_exceptions=True)
                await asyncio.gather(*self._writes, return_exceptions=True)

    def finished(self) -> bool:
        """Whether the trainer has published its last weights."""
        newest = latest(self.run_dir)
        self._version = newest.version if newest else 0
        return self._version >= self.config.max_steps

    def _room(self, in_flight: int) -> int:
        depth = self.stream.depth()
        held = self.stream.held()  # after depth: a group that moves between the two counts twice, never not at all
        servers = len(self.pool.servers()) if in_flight == 0 else max(1, len(self.pool.servers()))
        if servers == 0:
            return 1 if in_flight == 0 else 0  # one request that waits for a server and says so
        return room(in_flight, depth, held, servers, self.config)

    # -- one group --------------------------------------------------------------------------------------------------

    async def _group(self, ordinal: int) -> GroupResult:
        identity, row = group_id(ordinal), self.curriculum.problem(ordinal)
        prompt = await self.rollouts.tokenise(row.problem)
        space = self.config.max_model_length - len(prompt.ids)
        if space < 1:
            return await self._close(GroupResult(identity, row.id, "prompt-too-long"))
        sampling = self.config.sampling
        if space < sampling.max_tokens:
            sampling = SamplingParams(space, sampling.temperature, sampling.top_p)
        batch = await self.rollouts.complete(prompt.ids, sampling, self.config.group_size)
        texts = [written_proof(choice.text, prompt.reasoning) for choice in batch.choices]
        grades = await asyncio.gather(*(obtain_grade(self.grader, row, text) for text in texts))
        judged = judge(batch, prompt, grades, texts, self.config.overlong)
        kept = [item.sample for item in judged if item.outcome == "kept"]
        outcome = group_outcome(kept, self._version, self.config)
        if outcome == "published":
            await self._write(self.stream.publish, Group(identity, row.id, kept))
        return await self._close(GroupResult(identity, row.id, outcome, judged), batch.seconds)

    async def _write(self, write: Callable[[Item], object], item: Item) -> None:
        """Write in a thread; a cancelled task leaves the write to be waited for at the end of `run`."""
        writing = asyncio.ensure_future(asyncio.to_thread(write, item))
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)
        await asyncio.shield(writing)

    async def _close(self, result: GroupResult, seconds: float = 0.0) -> GroupResult:
        if result.outcome != "published":
            await self._write(self.stream.discard, result.id)
        self._log.write(result, seconds)
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

    def _report(self, in_flight: int) -> None:
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_SECONDS
        while len(self._tokens) > 2 and now - self._tokens[0][0] > 30:
            self._tokens.popleft()
        span = max(1e-9, now - self._tokens[0][0])
        shown = window_metrics(self._recent, self._version)
        servers, depth = len(self.pool.servers()), self.stream.depth()
        metrics.POOL_SERVERS.set(servers)
        metrics.QUEUE_DEPTH.set(depth)
        metrics.REWARD_MEAN.set(shown.get("reward", 0.0))
        metrics.REWARD_STD.set(shown.get("rewardStd", 0.0))
        published = self.outcomes["published"]
        self._reporter.update(
            stage="Sampling" if published or in_flight else "Waiting",
            unit="group",
            step=published,
            total=self.config.max_steps * self.config.problems_per_step,
            metrics={
                **shown,
                "tokensPerSecond": sum(tokens for _, tokens in list(self._tokens)[1:]) / span,
                "servers": servers,
                "queuedGroups": depth,
                "groupsInFlight": in_flight,
            },
            message=", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items())) if servers else None,
        )

    def _waiting(self, seconds: float) -> None:
        if seconds >= 1.0 and self._reporter.report().stage != "Waiting":
            self._reporter.update(stage="Waiting")
        self._reporter.update(message=f"waiting for a rollout server, {seconds:.0f} s so far")


def window_metrics(results: Sequence[GroupResult] | deque[GroupResult], trainer_version: int) -> dict[str, float]:
    """Means over the last groups: reward of all graded samples, spread within groups, staleness, length, shares."""
    groups = [result for result in results if result.samples]
    items = [item for result in groups for item in result.samples]
    graded = [item.sample.reward for item in items if item.outcome != "ungraded"]
    if not groups or not graded:
        return {}
    spreads = []
    for result in groups:
        rewards = [item.sample.reward for item in result.samples if item.outcome == "kept"]
        if rewards:
            mean = sum(rewards) / len(rewards)
            spreads.append((sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5)
    published = [result for result in groups if result.outcome == "published"]
    stale = [max(0, trainer_version - min(i.sample.version_start for i in r.samples)) for r in published]
    return {
        "reward": sum(graded) / len(graded),
        "rewardStd": sum(spreads) / max(1, len(spreads)),
        "stalenessMean": sum(stale) / max(1, len(stale)),
        "responseTokens": sum(len(item.sample.completion_ids) for item in items) / len(items),
        "truncatedShare": sum(item.sample.finish_reason == "length" for item in items) / len(items),
        "zeroVarianceShare": sum(result.outcome == "zero-variance" for result in groups) / len(groups),
    }
