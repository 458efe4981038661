"""The actor of an RLRun: problems in, graded groups out."""

from __future__ import annotations

import asyncio
import sys

from qednano.api import RLRunSpec
from qednano.data.schema import read_rows
from qednano.errors import Stopped
from qednano.grading.registry import grader_for
from qednano.job import JobContext, Outcome, job
from qednano.llm.client import SamplingParams
from qednano.rl.actor import Actor, ActorConfig
from qednano.rl.curriculum import Curriculum
from qednano.rl.sample_log import SampleLog


def config_of(spec: RLRunSpec) -> ActorConfig:
    """The actor's part of the spec."""
    algorithm, sampling = spec.algorithm, spec.sampling
    return ActorConfig(
        group_size=algorithm.group_size,
        problems_per_step=algorithm.problems_per_step,
        max_steps=algorithm.max_steps,
        max_staleness=algorithm.max_staleness,
        concurrent_groups=spec.actor.concurrent_groups or 2 * algorithm.problems_per_step,
        drop_zero_variance=algorithm.drop_zero_variance,
        overlong=algorithm.overlong,
        sampling=SamplingParams(sampling.max_tokens, float(sampling.temperature), float(sampling.top_p)),
        max_model_length=spec.rollout.max_model_length,
        server_sequences=spec.rollout.max_concurrent,
    )


@job
def main(ctx: JobContext) -> Outcome:
    spec: RLRunSpec = ctx.spec
    ctx.reporter.update(stage="Starting", message="reading the dataset")
    curriculum = Curriculum(list(read_rows(ctx.input_path("dataset"))), spec.seed)
    grader = grader_for(spec.grader)
    with SampleLog(ctx.run_dir, f"actor-{ctx.attempt:04d}") as samples:
        actor = Actor(config_of(spec), curriculum, grader, ctx.run_dir, "rollout", samples, ctx.reporter)
        asyncio.run(actor.run(ctx.stopping.is_set))
    if not actor.finished():
        raise Stopped("the actor was asked to stop; published groups are in the stream, others are drawn again")
    return Outcome(f"the trainer is done; groups by outcome: {dict(actor.outcomes)}")


if __name__ == "__main__":
    sys.exit(main())
