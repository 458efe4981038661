"""The report of a grader evaluation: one HTML file, made from the artifact it lies in; the viewer shows the same."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qednano.artifacts import write_atomic
from qednano.errors import DataError
from qednano.grading.interface import FULL_SCORE
from qednano.pages.charts import calibration_chart
from qednano.pages.standalone import standalone
from qednano.pages.templates import environment

FILE = "grading.json"
MOST_EXAMPLES = 8
LONGEST_PROOF = 20_000  # characters
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A line of the table: a field of Worth, what it is called and means; `kind` is points, share or signed."""

    field: str
    label: str
    meaning: str
    kind: str = "points"


ROWS = (
    Row("mae", "Mean absolute error", "in points"),
    Row("rmse", "Root mean square error", "large errors count more"),
    Row("bias", "Bias", "above 0 it is generous", "signed"),
    Row("bucket_accuracy", "Bucket accuracy", "same bucket of 0, 1–3, 4–6, 7", "share"),
    Row("pairwise_consistency", "Pairwise consistency", "of two proofs of a problem the better one gets more", "share"),
    Row("advantage_difference", "Advantage difference", "error that reinforcement learning sees, in points"),
    Row("kappa", "Weighted kappa", "Cohen's, quadratic weights"),
    Row("spearman", "Spearman", "rank correlation over all proofs"),
)


def numbers(artifact: Path) -> dict[str, Any]:
    """grading.json of an artifact. DataError where it can't be read."""
    try:
        found: dict[str, Any] = json.loads((artifact / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{artifact / FILE} can't be read: {error}") from None
    return found


def shown(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the pages' pieces are drawn from."""
    colours = {grader["name"]: number % 6 for number, grader in enumerate(told["graders"])}
    return {"told": told, "rows": ROWS, "chart": calibration_chart(told["graders"], FULL_SCORE), "colours": colours}


def write(folder: Path, name: str, headline: str) -> None:
    """Write report.html beside grading.json, grades.parquet and proofs.parquet."""
    told = numbers(folder)
    body = environment(_HERE).get_template("grader_report.html.j2").render(
        name=name, headline=headline, examples=furthest(folder, told["graders"][0]["name"]), longest=LONGEST_PROOF,
        **shown(told),
    )  # fmt: skip
    write_atomic(folder / "report.html", standalone(f"{name}: graders", body))


def furthest(folder: Path, grader: str) -> list[dict[str, Any]]:
    """Proofs with the largest difference between a grader and people, with all their grades; no more than differ."""
    by_proof: dict[str, list[dict[str, Any]]] = defaultdict(list)
    columns = ["grader", "id", "human", "score", "reason"]
    for row in pq.read_table(folder / "grades.parquet", columns=columns).to_pylist():
        by_proof[row["id"]].append(row)
    errors = {
        row["id"]: abs(row["score"] - row["human"])
        for rows in by_proof.values()
        for row in rows
        if row["grader"] == grader and row["score"] is not None
    }
    chosen = sorted((name for name in errors if errors[name]), key=lambda name: (-errors[name], name))[:MOST_EXAMPLES]
    found = pq.read_table(folder / "proofs.parquet", filters=[("id", "in", chosen)]).to_pylist() if chosen else []
    proofs = {row["id"]: row for row in found}
    return [{"proof": proofs[name], "grades": by_proof[name]} for name in chosen]
