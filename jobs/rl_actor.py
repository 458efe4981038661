"""The actor of an RLRun: problems in, graded groups out."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from qednano.api import RLRunSpec
from qednano.api.rlrun import Graded, Order
from qednano.artifacts import check_fence, claim_attempt
from qednano.data.schema import ProblemRow, read_rows
from qednano.errors import Stopped
from qednano.grading.health import GraderHealth
from qednano.grading.registry import below, grader_for
from qednano.job import JobContext, Outcome, job
from qednano.llm.chat import ChatModel, ChatParams
from qednano.llm.completions import SamplingParams
from qednano.llm.connect import open_models
from qednano.plan.language_models import language_models
from qednano.rl.actor import Actor, ActorConfig, Parts
from qednano.rl.backpressure import Pace
from qednano.rl.bill import Bill, billed
from qednano.rl.curriculum import Curriculum, PassRates
from qednano.rl.open_stream import open_stream
from qednano.rl.pool import Pool
from qednano.rl.reasoning_cache import CacheConfig, ModelSummariser, PolicySummariser, ReasoningCache
from qednano.rl.rewards import RewardShaping
from qednano.rl.rollouts import Rollouts
from qednano.rl.sample_log import SampleLog
from qednano.rl.weights import latest_version


def config_of(spec: RLRunSpec) -> ActorConfig:
    """The actor's part of the spec."""
    algorithm, sampling = spec.algorithm, spec.sampling
    return ActorConfig(
        pace=Pace(
            group_size=algorithm.group_size,
            problems_per_step=algorithm.problems_per_step,
            max_staleness=algorithm.max_staleness,
            concurrent_groups=spec.actor.concurrent_groups or 2 * algorithm.problems_per_step,
            server_sequences=spec.rollout.max_concurrent,
        ),
        max_steps=algorithm.max_steps,
        drop_zero_variance=algorithm.drop_zero_variance,
        shaping=RewardShaping(
            overlong=algorithm.overlong,
            limit=sampling.max_tokens,
            buffer=algorithm.overlong_buffer,
            penalty=float(algorithm.overlong_penalty),
            discount=float(algorithm.length_discount),
            flatten_partial=algorithm.flatten_partial,
        ),
        sampling=SamplingParams(sampling.max_tokens, float(sampling.temperature), float(sampling.top_p)),
        max_model_length=longest(spec),
        seed=spec.seed,
        pass_score=spec.curriculum.pass_score,
        groups_per_visit=spec.reasoning_cache.states_per_problem if spec.reasoning_cache else 1,
    )


def longest(spec: RLRunSpec) -> int:
    """Tokens of a prompt and its completion at most: as many as rollout servers hold and a served reference scores."""
    ours = spec.rollout.max_model_length
    if spec.reference is None or not reference_role(spec):
        return ours
    return min(ours, spec.reference.server.max_model_length - 1)  # scoring asks for a token behind the sample


def curriculum_of(spec: RLRunSpec, rows: list[ProblemRow], run_dir: Path) -> Curriculum:
    """The order of problems that the spec asks for."""
    asked = spec.curriculum
    if asked.order is Order.SHUFFLED:
        return Curriculum(rows, spec.seed)
    known = {row.id: row.pass_rate for row in rows if row.pass_rate is not None}
    rates = PassRates(known, run_dir / "actor" / "pass-rates.json", asked.memory_percent / 100)
    return Curriculum(rows, spec.seed, rates, asked.least_percent / 100)


def cache_of(
    spec: RLRunSpec, config: ActorConfig, rollouts: Rollouts, models: Mapping[str, ChatModel], run_dir: Path
) -> ReasoningCache | None:
    """The reasoning cache, if the spec asks for one."""
    asked = spec.reasoning_cache
    if asked is None:
        return None
    params = ChatParams.of(asked.summary)
    model = models.get("reasoningCache/summariser")
    return ReasoningCache(
        CacheConfig(
            cycles=asked.cycles,
            states_per_problem=asked.states_per_problem,
            turns=asked.turns,
            joined=asked.graded is Graded.JOINED,
            max_state_age=asked.max_state_age,
            prompts=asked.prompts,
            sampling=config.sampling,
            max_model_length=config.max_model_length,
            seed=spec.seed,
        ),
        rollouts,
        ModelSummariser(model, params) if model else PolicySummariser(rollouts, params, config.max_model_length),
        version=lambda: latest_version(run_dir),
    )


async def act(ctx: JobContext, spec: RLRunSpec, samples: SampleLog) -> Actor:
    """Run the actor until the trainer is done or it is asked to stop."""
    fence_folder = ctx.run_dir / "actor"
    attempt = claim_attempt(fence_folder)
    config = config_of(spec)
    curriculum = curriculum_of(spec, list(read_rows(ctx.input_path("dataset"))), ctx.run_dir)
    stream = open_stream(spec, ctx)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(stream.close)
        bill = Bill(fence_folder / "usage.json")
        models = billed(await stack.enter_async_context(open_models(ctx)), bill)
        grader = grader_for(spec.grader, below(models, "grader"))
        stack.push_async_callback(grader.close)

        def said(seconds: float) -> None:
            ctx.reporter.update(stage="Waiting", message=f"waiting for a rollout server, {seconds:.0f} s so far")

        rollouts = await stack.enter_async_context(Rollouts(Pool(ctx.run_dir, "rollout"), said, spent=bill.drawn))
        parts = Parts(
            curriculum=curriculum,
            grader=grader,
            health=GraderHealth(spec.grader.max_failure_percent, said=lambda why: ctx.reporter.update(paused=why)),
            stream=stream,
            sample_log=samples,
            bill=bill,
            cache=cache_of(spec, config, rollouts, models, ctx.run_dir),
        )
        if role := reference_role(spec):
            reference = await stack.enter_async_context(Rollouts(Pool(ctx.run_dir, role), said, spent=bill.drawn))
            parts = replace(parts, reference=reference)
        actor = Actor(config, parts, rollouts, ctx.run_dir, ctx.reporter, lambda: check_fence(fence_folder, attempt))
        await actor.run(ctx.stopping.is_set)
    return actor


def reference_role(spec: RLRunSpec) -> str:
    """The role that serves the reference policy; empty when the trainer computes it or nobody needs it."""
    if not spec.algorithm.kl_coefficient:
        return ""
    return next((use.role for use in language_models(spec) if use.field == "reference"), "")


@job
def main(ctx: JobContext) -> Outcome:
    spec: RLRunSpec = ctx.spec
    ctx.reporter.update(stage="Starting", message="reading the dataset")
    with SampleLog(ctx.run_dir, f"actor-{ctx.attempt:04d}") as samples:
        actor = asyncio.run(act(ctx, spec, samples))
    if not actor.finished():
        raise Stopped("the actor was asked to stop; published groups are in the stream, others are drawn again")
    return Outcome(f"the trainer is done; groups by outcome: {dict(actor.outcomes)}")


if __name__ == "__main__":
    sys.exit(main())
