"""The problems of an evaluation: a split of a ProofDataset, or a file of the same rows."""

from __future__ import annotations

from pathlib import Path

from qednano.data.schema import ProblemRow, read_rows
from qednano.errors import DataError


def load(path: Path, limit: int = 0) -> list[ProblemRow]:
    """The first `limit` problems (0: all). Raises DataError when there is none or an id occurs twice."""
    problems: dict[str, ProblemRow] = {}
    for row in read_rows(path):
        if limit and len(problems) == limit:
            break
        if row.id in problems:
            raise DataError(f"{path} has the id {row.id!r} twice; scores are kept by id, so give each problem its own")
        problems[row.id] = row
    if not problems:
        raise DataError(f"{path} has no problems; there is nothing to evaluate on")
    return list(problems.values())
