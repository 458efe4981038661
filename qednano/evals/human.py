"""Grades that people give in the viewer: one small file beside an artifact, and rows that a grader evaluation reads.

The file lies beside the artifact's folder, not in it: an artifact never changes, and a new attempt replaces it whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from qednano.artifacts import write_atomic
from qednano.errors import DataError
from qednano.grading.interface import FULL_SCORE
from qednano.jsonl import read_rows

LONGEST_NOTE, LONGEST_NAME = 20_000, 80


@dataclass(frozen=True)
class HumanGrade:
    """One person's grade of one proof: score 0..7 as a whole number; time in ISO 8601, UTC."""

    model: str
    problem: str
    index: int
    score: int
    note: str
    grader: str
    time: str
    proof_sha256: str

    def __post_init__(self) -> None:
        if isinstance(self.score, bool) or not isinstance(self.score, int) or not 0 <= self.score <= FULL_SCORE:
            raise DataError(f"the score is {self.score!r}: give a whole number from 0 to {FULL_SCORE}")
        if not self.grader.strip() or len(self.grader) > LONGEST_NAME or not self.grader.isprintable():
            raise DataError(f"the grader's name is {self.grader[:100]!r}: give one of 1 to {LONGEST_NAME} characters")
        if len(self.note) > LONGEST_NOTE:
            raise DataError(f"the note has {len(self.note)} characters: {LONGEST_NOTE} fit")

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What the grade replaces an older one of: the sample and the person."""
        return self.model, self.problem, self.index, self.grader


def grades_path(artifact: Path) -> Path:
    """The file of an artifact's human grades."""
    artifact = artifact.resolve()
    return artifact.with_name(f"{artifact.name}.grades.jsonl")


def proof_digest(proof: str) -> str:
    """By which a grade says what it was given for."""
    return hashlib.sha256(proof.encode()).hexdigest()


def read_grades(path: Path) -> list[HumanGrade]:
    """All grades of a file, none when there is no file. DataError names the line that is no grade."""
    names = {item.name for item in fields(HumanGrade)}
    grades = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            grades.append(HumanGrade(**{name: value for name, value in row.items() if name in names}))
        except (TypeError, AttributeError) as error:
            raise DataError(f"{path} line {number} is not a grade ({error}); correct or remove it") from None
    return grades


def save_grade(path: Path, grade: HumanGrade) -> None:
    """Add the grade, or put it in place of the person's older one for the same proof; all or nothing."""
    with _alone(path):
        kept = {item.key: item for item in read_grades(path)}
        kept[grade.key] = grade
        _write(path, list(kept.values()))


def remove_grade(path: Path, key: tuple[str, str, int, str]) -> bool:
    """Take one grade back; whether there was one."""
    with _alone(path):
        grades = read_grades(path)
        kept = [item for item in grades if item.key != key]
        if len(kept) < len(grades):
            _write(path, kept)
        return len(kept) < len(grades)


def _write(path: Path, grades: list[HumanGrade]) -> None:
    write_atomic(path, "".join(json.dumps(asdict(grade), ensure_ascii=False) + "\n" for grade in grades))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One writer at a time, also among several viewers."""
    try:
        file = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise DataError(f"grades can't be kept in {path} ({error.strerror}): make its folder writable") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
