"""The job of a ProofDataset: make the splits and their manifest in the run's folder."""

from __future__ import annotations

import sys

from qednano.artifacts import check_fence, claim_attempt
from qednano.data.answers import answers_of, usage_of
from qednano.data.build import build_dataset
from qednano.data.shards import Build
from qednano.job import JobContext, Outcome, job
from qednano.llm.connect import open_models


@job
def main(context: JobContext) -> Outcome:
    """Build the dataset, or go on where a killed attempt stopped."""
    attempt = claim_attempt(context.run_dir)
    build = Build(
        run_dir=context.run_dir,
        reporter=context.reporter,
        check_stop=context.check_stop,
        check_fence=lambda: check_fence(context.run_dir, attempt),
        open_models=lambda: open_models(context),
    )
    context.reporter.update(metrics=usage_of(answers_of(context.run_dir)).headlines())
    manifest = build_dataset(context.spec, context.config.name, build)
    splits = {
        key.removeprefix("problems/"): count for key, count in manifest.metrics.items() if key.startswith("problems/")
    }
    told = ", ".join(f"{count} {name}" for name, count in splits.items())
    return Outcome(
        f"{context.config.name}: {told} problems",
        {"problems": float(sum(splits.values()))}
        | {key: float(count) for key, count in manifest.metrics.items() if key.startswith("rows/")}
        | usage_of(answers_of(context.run_dir)).headlines(),
        build.artifact,
    )


if __name__ == "__main__":
    sys.exit(main())
