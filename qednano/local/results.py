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
    """One model of an evaluation: mean score (0 to 1) with its 95 % interval, and other figures by name."""

    model: str
    mean: float
    low: float
    high: float
    others: dict[str, float]


def read_scores(folder: RunFolder) -> list[Score]:
    """The scores of a finished EvalRun, baselines first. DataError when they can't be read."""
    path = folder.artifact / "scores.json"
    try:
        return [_score(entry) for entry in json.loads(path.read_text())["models"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read as scores ({error!r}); run the evaluation again") from None


def _score(entry: dict[str, Any]) -> Score:
    low, high = entry["interval"]
    others = {name: float(value) for name, value in entry.get("metrics", {}).items()}
    return Score(entry["name"], float(entry["mean"]), float(low), float(high), others)


def score_rows(scores: Sequence[Score]) -> list[list[str]]:
    """The scores as rows of text, with a heading."""
    names = list(dict.fromkeys(name for score in scores for name in score.others))
    rows = [["MODEL", "MEAN SCORE", "95 % INTERVAL", *(name.upper() for name in names)]]
    for score in scores:
        others = [f"{score.others[name]:.3f}" if name in score.others else "" for name in names]
        rows.append([score.model, f"{score.mean:.3f}", f"{score.low:.3f} to {score.high:.3f}", *others])
    return rows


def report_of(view: RunView) -> Path | None:
    """The HTML report of a finished run, None when it has none."""
    if view.folder is None or view.phase is not Phase.SUCCEEDED:
        return None
    path = view.folder.artifact / "report.html"
    return path if path.is_file() else None


def scores_of(views: Sequence[RunView]) -> dict[str, list[Score]]:
    """Label of each finished EvalRun to its scores."""
    return {
        view.label: read_scores(view.folder)
        for view in views
        if view.run.kind == "EvalRun" and view.phase is Phase.SUCCEEDED and view.folder is not None
    }


def last_line(views: Sequence[RunView], scores: dict[str, list[Score]], total_seconds: float) -> str:
    """One line of JSON for programs: scores by model, seconds by run, and the report."""
    reports = [str(path) for view in views if (path := report_of(view))]
    summary: dict[str, Any] = {
        "scores": {score.model: round(score.mean, 6) for found in scores.values() for score in found},
        "seconds": {view.label: round(view.seconds, 1) for view in views} | {"total": round(total_seconds, 1)},
        "report": reports[-1] if reports else None,
    }
    unfinished = {view.label: view.status.message for view in views if view.phase is not Phase.SUCCEEDED}
    if unfinished:
        summary["unfinished"] = unfinished
    return json.dumps(summary, ensure_ascii=False)
