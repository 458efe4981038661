from __future__ import annotations

import json
import random

import pytest

from qednano.api.grader import Grader as GraderSpec
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError
from qednano.grading.interface import Grade, Grader
from qednano.grading.registry import grader_for
from qednano.tiny import teacher
from qednano.tiny.problems import generate

PROBLEM = next(generate(0, 1))
ROW = ProblemRow(id=PROBLEM.id, problem=PROBLEM.text)


@pytest.fixture
def grader() -> Grader:
    return grader_for(GraderSpec.model_validate({"checker": {"name": "tiny-divisibility"}}))


async def test_a_perfect_proof_has_full_reward_and_a_row_for_each_checkpoint(grader):
    grade = await grader.grade(ROW, teacher.write(PROBLEM, random.Random(0)))
    assert (grade.score, grade.reward) == (7, 1.0)
    assert len(grade.details["checkpoints"]) == 6
    json.dumps(grade.details)  # the report keeps it as JSON


async def test_a_flawed_proof_says_what_is_wrong(grader):
    grade = await grader.grade(ROW, teacher.write_flawed(PROBLEM, "no sum", random.Random(0)))
    assert grade.score == 3
    assert grade.reason == "line 3 factors without: add remainders, add constant"


async def test_a_problem_of_another_task_has_no_grade_rather_than_zero(grader):
    grade = await grader.grade(ProblemRow(id="x", problem="Prove Fermat's last theorem."), "Obvious.")
    assert (grade.score, grade.reward) == (None, None)
    assert "not a tiny-divisibility problem" in grade.reason


def test_graders_keep_the_protocol(grader):
    assert isinstance(grader, Grader)


def test_a_grade_outside_the_scale_can_not_be_made():
    with pytest.raises(ValueError, match="outside 0..7"):
        Grade(8)


def test_an_unknown_checker_is_named_with_the_known_ones():
    spec = GraderSpec.model_validate({"checker": {"name": "tiny-divisibility"}})
    unknown = spec.model_copy(update={"checker": spec.checker.model_copy(update={"name": "oracle"})})
    with pytest.raises(ConfigError, match="'oracle': use one of tiny-divisibility"):
        grader_for(unknown)
