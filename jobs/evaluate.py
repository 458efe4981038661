"""An evaluation: models in turn on the same problems, then scores, rows and a report as one artifact."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from qednano_jobs.evaluate_graders import evaluate_graders

from qednano.api import EvalRunSpec
from qednano.api.scaffold import ScaffoldType
from qednano.artifacts import publish, staging, write_json, write_manifest
from qednano.data.schema import to_table
from qednano.errors import DataError
from qednano.evals.benchmark import problems_of, splits_of
from qednano.evals.cast import cast_of
from qednano.evals.continuous import record
from qednano.evals.report import About, headline
from qednano.evals.report import write as write_report
from qednano.evals.results import order_of, sample_rows, write_tables
from qednano.evals.run import Checkpoint, Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds import scaffold_of
from qednano.evals.scores import SampleRow, Scores, score_all
from qednano.evals.tree import Limits
from qednano.grading.health import GraderHealth
from qednano.grading.registry import below, grader_for
from qednano.grading.usage import usage_alone
from qednano.job import JobContext, Outcome, job
from qednano.llm.chat import ChatModel
from qednano.llm.hub_model import model_folder
from qednano.plan import evaluated_models, language_models


def contenders(ctx: JobContext, spec: EvalRunSpec) -> list[Contender]:
    """The model and its baselines, with the folders they were resolved to; endpoints have none."""
    served = evaluated_models(spec)
    return [
        Contender(name, str(model_folder(ctx.config.inputs[field].uri, ctx.run_dir)) if field in served else "")
        for field, name, _ in spec.contenders
    ]


def config_of(ctx: JobContext, spec: EvalRunSpec) -> EvaluationConfig:
    """What this shard evaluates, and how much at once."""
    budget, lanes = spec.scaffold.budget, spec.scaffold.concurrency
    held = spec.server.replicas * spec.server.max_concurrent
    if not evaluated_models(spec):
        held = max(model.endpoint.max_concurrent for _, _, model in spec.contenders if model.endpoint is not None)
    return EvaluationConfig(
        contenders=contenders(ctx, spec),
        problems=problems_of(spec.benchmark, _benchmark_file(ctx), ctx.run_dir),
        samples_per_problem=spec.samples_per_problem,
        capacity=lanes.calls or max(1, held // spec.shards),
        lanes={role: getattr(lanes, role) for role in ("solver", "verifier", "summariser", "judge")},
        limits=Limits(
            tokens=0 if spec.scaffold.type is ScaffoldType.ADAPTIVE else budget.tokens,  # it moves them itself
            money=budget.money,
            seconds=budget.seconds,
        ),
        total=Limits(budget.total_tokens // spec.shards, budget.total_money / spec.shards),
        seed=spec.seed,
        shards=spec.shards,
        shard=ctx.index,
        checkpoint=checkpoint_of(spec),
    )


def checkpoint_of(spec: EvalRunSpec) -> Checkpoint | None:
    """What a continuous evaluation is of; None for any other."""
    if spec.continuous is None or spec.model is None:
        return None
    trained = spec.model.sft_run or spec.model.rl_run
    return Checkpoint(trained.name, spec.continuous.evaluation, spec.continuous.step) if trained else None


def _benchmark_file(ctx: JobContext) -> Path | None:
    """The file of a proofDataset or uri; a Hub dataset has none."""
    return ctx.input_path("benchmark") if "benchmark" in ctx.config.inputs else None


@contextlib.asynccontextmanager
async def asked_models(ctx: JobContext, spec: EvalRunSpec) -> AsyncIterator[Mapping[str, ChatModel]]:
    """Helpers, graders and evaluated endpoints, by their field."""
    if not language_models(spec):
        yield {}
        return
    from qednano.llm.connect import open_models

    async with open_models(ctx) as models:
        yield models


async def evaluate(ctx: JobContext, spec: EvalRunSpec) -> Evaluation:
    """Run this shard's part to its end."""
    async with asked_models(ctx, spec) as models:
        grader = grader_for(spec.grader, below(models, "grader"))
        try:
            evaluation = Evaluation(
                config_of(ctx, spec),
                scaffold_of(spec.scaffold),
                grader,
                cast_of(spec, models),
                ctx.run_dir,
                ctx.reporter,
                GraderHealth(spec.grader.max_failure_percent, said=lambda why: ctx.reporter.update(paused=why)),
            )
            await evaluation.run(ctx.stopping.is_set)
        finally:
            await grader.close()
    return evaluation


def _sampling(spec: EvalRunSpec) -> str:
    sampling = spec.sampling
    return (
        f"{spec.scaffold.type}, temperature {sampling.temperature}, top-p {sampling.top_p}, "
        f"at most {sampling.max_tokens} tokens a question"
    )


def leave_artifact(ctx: JobContext, spec: EvalRunSpec, evaluation: Evaluation) -> Scores:
    """Write the tables, scores.json and report.html, closed by a manifest, into the run's `artifact`."""
    config, parts = evaluation.config, evaluation.parts
    names = [contender.name for contender in config.contenders]
    order = order_of(names, [problem.id for problem in config.problems], config.samples_per_problem)
    rows = [_light(SampleRow(**row)) for row in sample_rows(parts, order)]
    difficulty = {problem.id: problem.difficulty for problem in config.problems}
    try:
        scores = score_all(
            names,
            rows,
            difficulty,
            spec.samples_per_problem,
            spec.seed,
            splits=splits_of(spec.benchmark, config.problems),
            correct_score=spec.correct_score,
        )
    except ValueError as error:
        raise DataError(
            f"there is nothing to report: {error}; look at the grader's reasons in {parts[0].samples}"
        ) from None
    about = About(ctx.config.name, _benchmark_name(ctx, spec), evaluation.grader.name, _sampling(spec))
    final = ctx.run_dir / "artifact"
    with staging(final) as folder:
        write_tables(folder, parts, order)
        pq.write_table(to_table(config.problems), folder / "problems.parquet")
        write_json(folder / "scores.json", scores.as_json())
        write_report(folder, about)
        write_manifest(
            folder,
            kind=ctx.config.kind,
            name=ctx.config.name,
            spec=ctx.config.spec,
            inputs={name: item.model_dump() for name, item in ctx.config.inputs.items()},
            seeds={"run": spec.seed},
            metrics=headline_metrics(scores),
        )
        publish(folder, final)
    return scores


def _benchmark_name(ctx: JobContext, spec: EvalRunSpec) -> str:
    resolved = ctx.config.inputs.get("benchmark")
    if resolved is not None:
        return resolved.name or Path(resolved.uri).name
    assert spec.benchmark is not None
    return spec.benchmark.known or (spec.benchmark.hub.id if spec.benchmark.hub else "")


def _light(row: SampleRow) -> SampleRow:
    """Without its texts: scores need none, and the report reads the few it shows from the tables."""
    return replace(row, text="", proof="", reasoning="", details=usage_alone(row.details))


def headline_metrics(scores: Scores) -> dict[str, float]:
    """What status and tables show: the score with its interval, the baselines', and pass@k."""
    first = scores.models[0]
    metrics = {"score": first.score.mean, "score/low": first.score.low, "score/high": first.score.high}
    metrics |= {f"score:{model.name}": model.score.mean for model in scores.models[1:]}
    metrics |= {f"pass@{k}": value.mean for k, value in first.pass_at_k.items()}
    return metrics


@job
def main(ctx: JobContext) -> Outcome:
    """See `qednano.api.EvalRunSpec` for what each field does."""
    spec: EvalRunSpec = ctx.spec
    if spec.grader_evaluation is not None:
        return evaluate_graders(ctx, spec.grader_evaluation)
    ctx.reporter.update(stage="Starting", message="reading the benchmark")
    evaluation = asyncio.run(evaluate(ctx, spec))
    if ctx.index:
        return Outcome(f"shard {ctx.index} of {spec.shards} is done; shard 0 merges", {})
    scores = leave_artifact(ctx, spec, evaluation)
    if spec.continuous is not None:
        record(spec.continuous, Path(os.path.realpath(ctx.input_path("model"))), scores)
    return Outcome(headline(scores), headline_metrics(scores), ctx.run_dir / "artifact")


if __name__ == "__main__":
    sys.exit(main())
