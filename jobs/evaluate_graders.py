"""An EvalRun with graderEvaluation: graders side by side on proofs that people have scored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from qednano.api.grader_evaluation import GraderEvaluation as Spec
from qednano.artifacts import check_fence, publish, staging, write_manifest
from qednano.evals import grader_report
from qednano.evals.graded import GradedProof, proofs_of
from qednano.evals.grader_run import Candidate, GraderEvaluation, headline, headline_metrics
from qednano.grading.health import GraderHealth
from qednano.grading.registry import below, grader_for
from qednano.job import JobContext, Outcome
from qednano.llm.chat import ChatModel
from qednano.plan import language_models

FIELD = "graderEvaluation"


@contextlib.asynccontextmanager
async def _models(ctx: JobContext) -> AsyncIterator[Mapping[str, ChatModel]]:
    if not language_models(ctx.spec):
        yield {}
        return
    from qednano.llm.connect import open_models

    async with open_models(ctx) as models:
        yield models


def _candidates(ctx: JobContext, spec: Spec, models: Mapping[str, ChatModel]) -> dict[str, Candidate]:
    """The graders by name; of several that fail at once the sentence of the last one is shown."""
    return {
        item.name: Candidate(
            grader_for(item.grader, below(models, f"{FIELD}/graders/{number}/grader")),
            GraderHealth(item.grader.max_failure_percent, said=lambda why: ctx.reporter.update(paused=why)),
        )
        for number, item in enumerate(spec.graders)
    }


async def _graded(ctx: JobContext, spec: Spec, proofs: list[GradedProof]) -> GraderEvaluation:
    async with _models(ctx) as models:
        graders = _candidates(ctx, spec, models)
        try:
            evaluation = GraderEvaluation(
                proofs,
                graders,
                ctx.run_dir,
                ctx.reporter,
                concurrency=spec.concurrency,
                check_fence=lambda: check_fence(ctx.run_dir, ctx.attempt),
            )
            await evaluation.run(ctx.stopping.is_set)
        finally:
            await asyncio.gather(*(item.grader.close() for item in graders.values()))
    return evaluation


def evaluate_graders(ctx: JobContext, spec: Spec) -> Outcome:
    """Grade what is missing and leave grades, numbers and a manifest as the run's artifact."""
    ctx.reporter.update(stage="Starting", message="reading the proofs that people scored")
    data = f"{FIELD}/data"
    path = ctx.input_path(data) if data in ctx.config.inputs else None
    proofs = proofs_of(spec.data, path, ctx.run_dir)
    evaluation = asyncio.run(_graded(ctx, spec, proofs))
    final = ctx.run_dir / "artifact"
    with staging(final) as folder:
        results = evaluation.write(folder, ctx.spec.seed)
        grader_report.write(folder, ctx.config.name, headline(results))
        write_manifest(
            folder,
            kind=ctx.config.kind,
            name=ctx.config.name,
            spec=ctx.config.spec,
            inputs={name: item.model_dump() for name, item in ctx.config.inputs.items()},
            seeds={"run": ctx.spec.seed},
            metrics=headline_metrics(results),
        )
        check_fence(ctx.run_dir, ctx.attempt)
        publish(folder, final)
    return Outcome(headline(results), headline_metrics(results), final)
