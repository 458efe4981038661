"""What is said at the end of `qednano run`: scores, where things are, seconds, and one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qednano.api import Phase
from qednano.errors import DataError
from qednano.local.folders import RunFolder
from qednano.local.session import RunView


@dataclass(frozen=True)
class Score:
    """One model of an evaluation: mean score (0 to 1) with its 95 % interval, and pass@k by k."""

    model: str
    mean: float
    low: float
    high: float
    pass_at: dict[int, float]


def read_scores(folder: RunFolder) -> list[Score]:
    """The scores of a finished EvalRun, baselines first. DataError when they can't be read."""
    path = folder.artifact / "scores.json"
    try:
        evaluated, *baselines = [_score(entry) for entry in json.loads(path.read_text())["models"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read as scores ({error!r}); run the evaluation again") from None
    return [*baselines, evaluated]


def _score(entry: dict[str, Any]) -> Score:
    score = entry["score"]
    pass_at = {int(k): float(estimate["mean"]) for k, estimate in entry["pass_at_k"].items()}
    return Score(entry["name"], float(score["mean"]), float(score["low"]), float(score["high"]), pass_at)


def score_rows(scores: Sequence[Score]) -> list[list[str]]:
    """The scores as rows of text, with a heading."""
    ks = sorted({k for score in scores for k in score.pass_at})
    rows = [["MODEL", "MEAN SCORE", "95 % INTERVAL", *(f"PASS@{k}" for k in ks)]]
    for score in scores:
        passed = [f"{score.pass_at[k]:.3f}" if k in score.pass_at else "" for k in ks]
        rows.append([score.model, f"{score.mean:.3f}", f"{score.low:.3f} to {score.high:.3f}", *passed])
    return rows


def comparison_rows(folder: RunFolder) -> list[list[str]]:
    """Each baseline against the evaluated model, paired, as rows of text with a heading; [] without baselines."""
    try:
        compared = json.loads((folder.artifact / "scores.json").read_text())["comparisons"]
    except (OSError, ValueError, KeyError):
        return []  # an evaluation of graders
    rows = [["AGAINST", "DIFFERENCE", "95 % INTERVAL", "P", "BETTER", "WORSE", "EQUAL"]]
    for name, found in compared.items():
        difference = found["difference"]
        interval = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
        counts = [str(found[who]) for who in ("better", "worse", "equal")]
        rows.append([name, f"{difference['mean']:+.3f}", interval, f"{found['p_value']:.2g}", *counts])
    return rows if len(rows) > 1 else []


def report_of(view: RunView) -> Path | None:
    """The HTML report of a finished run, None when it has none."""
    if view.folder is None or view.phase is not Phase.SUCCEEDED:
        return None
    path = view.folder.artifact / "report.html"
    return path if path.is_file() else None


def scores_of(views: Sequence[RunView]) -> dict[str, list[Score]]:
    """Label of each finished EvalRun of models to its scores."""
    return {label: read_scores(folder) for label, folder in _evaluations(views) if not _graders(folder).is_file()}


def grader_rows_of(views: Sequence[RunView]) -> dict[str, list[list[str]]]:
    """Label of each finished EvalRun of graders to a table of text, with a heading; errors are in points of 7."""
    tables = {}
    for label, folder in _evaluations(views):
        if not _graders(folder).is_file():
            continue
        rows = [["GRADER", "GRADED", "ERROR", "95 % INTERVAL", "BIAS", "KAPPA", "PAIRS"]]
        for entry in json.loads(_graders(folder).read_text())["graders"]:
            error = entry["mae"]
            others = [_number(entry[name]["mean"]) for name in ("bias", "kappa", "pairwise_consistency")]
            interval = f"{error['low']:.2f} to {error['high']:.2f}"
            rows.append([entry["name"], str(entry["graded"]), f"{error['mean']:.2f}", interval, *others])
        tables[label] = rows
    return tables


def _evaluations(views: Sequence[RunView]) -> list[tuple[str, RunFolder]]:
    return [
        (view.label, view.folder)
        for view in views
        if view.run.kind == "EvalRun" and view.phase is Phase.SUCCEEDED and view.folder is not None
    ]


def _graders(folder: RunFolder) -> Path:
    """What an EvalRun with graderEvaluation leaves in place of scores."""
    return folder.artifact / "grading.json"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def last_line(views: Sequence[RunView], scores: dict[str, list[Score]], total_seconds: float) -> str:
    """One line of JSON for programs: scores by model, seconds by run, and the report."""
    reports = [str(path) for view in views if (path := report_of(view))]
    summary: dict[str, Any] = {
        "scores": {score.model: round(score.mean, 6) for found in scores.values() for score in found},
        "seconds": {view.label: round(view.seconds, 1) for view in views} | {"total": round(total_seconds, 1)},
        "report": reports[-1] if reports else None,
    }
    unfinished = {view.label: view.status.message for view in views if not view.in_order}
    if unfinished:
        summary["unfinished"] = unfinished
    return json.dumps(summary, ensure_ascii=False)
