"""The job of a ProofDataset: make the splits and their manifest in the run's folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from qednano.artifacts import check_fence, claim_attempt
from qednano.data.answers import answers_of, usage_of
from qednano.data.build import build_dataset
from qednano.data.shards import Build
from qednano.job import JobContext, Outcome, ResolvedInput, job
from qednano.llm.connect import open_models


def _pinned(inputs: Mapping[str, ResolvedInput]) -> dict[str, dict[str, str]]:
    """The models that the run serves to itself, by the digest of what they were resolved to."""
    return {name: {"sha256": item.digest.removeprefix("sha256:")} for name, item in inputs.items() if item.digest}


def _others(context: JobContext) -> Path | None:
    """The folder of the namespace's ProofDatasets, where the run's folder lies in it as operator and laptop lay it."""
    folder = context.run_dir.parent
    return folder if folder.name == context.config.kind.lower() else None


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
        models=_pinned(context.config.inputs),
        others=_others(context),
    )
    context.reporter.update(metrics=usage_of(answers_of(context.run_dir)).headlines())
    manifest = build_dataset(context.spec, context.config.name, build)
    splits = {
        key.removeprefix("problems/"): count for key, count in manifest.metrics.items() if key.startswith("problems/")
    }
    told = ", ".join(f"{count} {name}" for name, count in splits.items())
    reused = f"; nothing was computed: taken from {manifest.reused}, made from the same" if manifest.reused else ""
    return Outcome(
        f"{context.config.name}: {told} problems{reused}",
        {"problems": float(sum(splits.values()))}
        | {key: float(count) for key, count in manifest.metrics.items() if key.startswith("rows/")}
        | usage_of(answers_of(context.run_dir)).headlines(),
        build.artifact,
    )


if __name__ == "__main__":
    sys.exit(main())
