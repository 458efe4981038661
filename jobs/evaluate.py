"""An evaluation: models in turn on the same problems, then scores, rows and a report as one artifact."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qednano.api import EvalRunSpec
from qednano.artifacts import publish, staging, write_atomic, write_json, write_manifest
from qednano.errors import DataError
from qednano.evals.benchmark import load
from qednano.evals.report import ReportInput, headline, render
from qednano.evals.run import Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds import SCAFFOLDS
from qednano.evals.scores import Scores, score_all
from qednano.grading.registry import grader_for
from qednano.job import JobContext, Outcome, job
from qednano.llm.client import SamplingParams


def contenders(ctx: JobContext, spec: EvalRunSpec) -> list[Contender]:
    """The model and its baselines, with the folders they were resolved to."""
    named = [("model", spec.model_name)]
    named += [(f"baselines/{number}", baseline.name) for number, baseline in enumerate(spec.baselines)]
    return [Contender(name, str(ctx.input_path(field))) for field, name in named]


def evaluation_of(ctx: JobContext, spec: EvalRunSpec) -> Evaluation:
    """The evaluation that the spec asks for."""
    sampling = SamplingParams(spec.sampling.max_tokens, float(spec.sampling.temperature), float(spec.sampling.top_p))
    return Evaluation(
        EvaluationConfig(
            contenders(ctx, spec),
            load(ctx.input_path("benchmark"), spec.benchmark.limit),
            spec.samples_per_problem,
            spec.server.replicas * spec.server.max_concurrent,
        ),
        SCAFFOLDS[spec.scaffold.type](sampling, spec.server.max_model_length),
        grader_for(spec.grader),
        ctx.run_dir,
        ctx.reporter,
    )


def leave_artifact(ctx: JobContext, spec: EvalRunSpec, evaluation: Evaluation) -> Scores:
    """Write results.parquet, scores.json and report.html, closed by a manifest, into the run's `artifact`."""
    config = evaluation.config
    order = {contender.name: number for number, contender in enumerate(config.contenders)}
    place = {problem.id: number for number, problem in enumerate(config.problems)}
    rows = sorted(evaluation.rows.values(), key=lambda row: (order[row.model], place[row.problem], row.index))
    difficulty = {problem.id: problem.difficulty for problem in config.problems}
    try:
        scores = score_all(list(order), rows, difficulty, spec.samples_per_problem, spec.seed)
    except ValueError as error:
        raise DataError(
            f"there is nothing to report: {error}; look at the grader's reasons in {evaluation.path}"
        ) from None
    data = ReportInput(
        name=ctx.config.name,
        benchmark=ctx.config.inputs["benchmark"].name or Path(ctx.config.inputs["benchmark"].uri).name,
        grader=evaluation.grader.name,
        sampling=f"temperature {spec.sampling.temperature}, top-p {spec.sampling.top_p}, "
        f"at most {spec.sampling.max_tokens} tokens",
        problems=config.problems,
        rows=rows,
    )
    final = ctx.run_dir / "artifact"
    with staging(final) as folder:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), folder / "results.parquet")
        write_json(folder / "scores.json", scores.as_json())
        write_atomic(folder / "report.html", render(data, scores))
        write_manifest(
            folder,
            kind=ctx.config.kind,
            name=ctx.config.name,
            spec=ctx.config.spec,
            inputs={name: item.model_dump() for name, item in ctx.config.inputs.items()},
            seeds={"bootstrap": spec.seed},
            metrics={"score": scores.models[0].score.mean},
        )
        publish(folder, final)
    return scores


@job
def main(ctx: JobContext) -> Outcome:
    spec: EvalRunSpec = ctx.spec
    ctx.reporter.update(stage="Starting", message="reading the benchmark")
    evaluation = evaluation_of(ctx, spec)
    asyncio.run(evaluation.run(ctx.stopping.is_set))
    scores = leave_artifact(ctx, spec, evaluation)
    metrics = {"score": scores.models[0].score.mean}
    metrics |= {f"score:{model.name}": model.score.mean for model in scores.models[1:]}
    metrics |= {f"pass@{k}": value.mean for k, value in scores.models[0].pass_at_k.items()}
    return Outcome(headline(scores), metrics, ctx.run_dir / "artifact")


if __name__ == "__main__":
    sys.exit(main())
