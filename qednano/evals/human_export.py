"""Human grades of an artifact as rows that stand alone: what a grader evaluation needs to grade the same proofs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qednano.evals.human import grades_path, proof_digest, read_grades
from qednano.evals.reader import EvaluationReader


def export_rows(reader: EvaluationReader) -> Iterator[dict[str, Any]]:
    """A row for each grade whose sample is there: problem, proof, and the person's score, 0..7.

    `changed` says that the proof is no longer the one that was graded: a rerun wrote another.
    """
    for grade in read_grades(grades_path(reader.folder)):
        row = reader.samples.row(grade.model, grade.problem, grade.index)
        if row is None:
            continue
        problem, sample = reader.problem(grade.problem), reader.sample(row)
        proof = sample["proof"] or ""
        yield {
            "id": f"{grade.problem}/{grade.model}/{grade.index}",
            "problem_id": grade.problem,
            "problem": problem.get("problem") or "",
            "reference": problem.get("reference"),
            "rubric": problem.get("rubric"),
            "answer": problem.get("answer"),
            "proof": proof,
            "score": grade.score,
            "note": grade.note,
            "grader": grade.grader,
            "time": grade.time,
            "author": grade.model,
            "index": grade.index,
            "machine_score": sample["score"],
            "changed": proof_digest(proof) != grade.proof_sha256,
        }
