"""What a continuous evaluation leaves with the training run: its score, and which checkpoint is best by now."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qednano.api.evalrun import Continuous
from qednano.artifacts import write_atomic, write_json
from qednano.evals.scores import Scores
from qednano.pages.charts import curve_chart
from qednano.pages.standalone import standalone
from qednano.pages.templates import environment
from qednano.plan import export_path
from qednano.plan.evaluations import Scored, best_checkpoint, best_file


def record(which: Continuous, model: Path, scores: Scores) -> None:
    """Write evaluations/<name>/step-<n>.json into the run that exported `model`; with `best`, best.json and `best`.

    `best` is a link to the model of the best step, `best.json` has the curve it was chosen from, and
    evaluations/curve.html shows all curves. Writing is atomic and starts from the files that are there, so evaluations
    may end in any order and end twice.
    """
    below = export_path(which.step)
    run_dir = model.parents[len(below.parts) - 1]
    if model != run_dir / below:
        raise ValueError(f"{model} is not an export of a training run; continuous evaluations are of {below}")
    score = scores.models[0].score
    folder = run_dir / "evaluations" / which.evaluation
    found = Scored(which.step, score.mean, score.low, score.high)
    write_json(folder / f"step-{which.step:08d}.json", asdict(found))
    if which.best:
        _choose(run_dir, which.evaluation)
    write_atomic(run_dir / "evaluations" / "curve.html", _page(run_dir))


def curve(run_dir: Path, evaluation: str) -> dict[int, Scored]:
    """The scores by step that an evaluation of a training run has so far."""
    files = sorted((run_dir / "evaluations" / evaluation).glob("step-*.json"))
    found = [Scored(**json.loads(path.read_bytes())) for path in files]
    return {item.step: item for item in found}


def curves(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """All evaluations of a training run by name: step, score, low and high of each step, in order."""
    names = sorted(path.name for path in (run_dir / "evaluations").glob("*/") if path.is_dir())
    found = {name: [asdict(item) for _, item in sorted(curve(run_dir, name).items())] for name in names}
    return {name: points for name, points in found.items() if points}


def chosen(run_dir: Path) -> dict[str, Any] | None:
    """What best.json of a training run says; None without one."""
    try:
        found: dict[str, Any] = json.loads((run_dir / "best.json").read_bytes())
    except FileNotFoundError:
        return None
    return found


def _page(run_dir: Path) -> str:
    found = curves(run_dir)
    template = environment(Path(__file__).parent).get_template("curve.html.j2")
    body = template.render(found=found, chart=curve_chart(found), best=chosen(run_dir))
    return standalone("Scores of checkpoints", body)


def _choose(run_dir: Path, evaluation: str) -> None:
    scored = curve(run_dir, evaluation)
    best = best_checkpoint(scored.values())
    assert best is not None  # this evaluation has just left one
    write_json(run_dir / "best.json", best_file(evaluation, scored, best))
    temporary = run_dir / f".best-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(export_path(best.step))
    os.replace(temporary, run_dir / "best")
