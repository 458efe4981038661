"""Stages around proofs: teacher generation, marking schemes, grading and difficulty, with models that are played."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qednano.api.data_stages import DifficultyStage, GenerateStage, GradeStage, RubricStage
from qednano.data.difficulty import difficulty
from qednano.data.generate import generate
from qednano.data.grade import aggregate, grade
from qednano.data.rubrics import read_rubric, rubrics
from qednano.data.schema import Candidate, ProblemRow
from qednano.errors import DataError, Unavailable
from qednano.grading.rubric import Rubric
from qednano.llm.chat import ChatAnswer
from qednano.tiny import problems, teacher
from tests.data.asked import PLACE, Played, run_stage
from tests.data.chat_server import RUBRIC

MODEL = {"endpoint": {"url": "http://localhost:1", "model": "m"}}
CHECKER = {"checker": {"name": "tiny-divisibility"}}
PROBLEM = next(iter(problems.generate(0, 1)))
PROOF = "\n".join(teacher.steps(PROBLEM))
ROW = ProblemRow(PROBLEM.id, PROBLEM.text, reference=PROOF)


def test_a_teacher_s_thinking_is_kept_apart_and_each_sample_has_a_seed_of_its_own(tmp_path):
    model = Played(lambda _: ChatAnswer(" A proof.\n", "stop", 9, 90, reasoning="Hm.", model="big"))
    stage = generate(GenerateStage(teacher=MODEL, samples=3), PLACE)
    left, tally, _ = run_stage(stage, [ROW], tmp_path, teacher=model)
    assert left[0].candidates == [Candidate("A proof.", "Hm.", "big", "stop", 9, 90)] * 3
    assert len({params.seed for _, params in model.heard}) == 3
    assert ROW.problem in model.heard[0][0][0]["content"]
    assert tally.counts["candidates"] == 3 and tally.counts["ended by stop"] == 3


def test_a_sample_that_the_limit_ended_is_a_candidate_that_says_so(tmp_path):
    model = Played(lambda _: ChatAnswer("", "length", 9, 124928, reasoning="Hm, so"))
    stage = generate(GenerateStage(teacher=MODEL), PLACE)
    left, tally, _ = run_stage(stage, [ROW], tmp_path, teacher=model)
    assert left[0].candidates[0].cut_off
    assert tally.counts["ended by length"] == tally.counts["without a proof"] == 1


def test_samples_that_failed_are_missing_and_a_row_without_any_is_parked(tmp_path):
    failing = iter([True, False, True, True])
    model = Played(lambda _: Unavailable("HTTP 503") if next(failing) else "A proof.")
    spec = GenerateStage(teacher=MODEL, samples=2, max_parked_percent=50)
    left, tally, _ = run_stage(generate(spec, PLACE), [ROW, replace(ROW, id="other")], tmp_path, teacher=model)
    assert len(left) == 1 and len(left[0].candidates) == 1
    assert tally.counts["candidates missing"] == 1 and tally.counts["dropped parked: no answer"] == 1


def test_a_spent_budget_goes_on_with_what_there_is_or_fails_as_the_spec_says(tmp_path):
    rows = [replace(ROW, id=str(number)) for number in range(20)]
    sampling = {"maxTokens": 20}
    spec = GenerateStage(teacher=MODEL, sampling=sampling, budget={"tokens": 150})
    model = Played(lambda _: "A proof.")  # 15 tokens
    left, tally, _ = run_stage(generate(spec, PLACE), rows, tmp_path, teacher=model)
    assert len(left) == len(model.heard) == 10 and tally.counts["dropped parked: budget spent"] == 10
    (tmp_path / "other").mkdir()
    failing = GenerateStage(teacher=MODEL, sampling=sampling, budget={"tokens": 150, "whenSpent": "Fail"})
    with pytest.raises(DataError, match="budget is spent \\(150 of 150 tokens\\)"):
        run_stage(generate(failing, PLACE), rows, tmp_path / "other", teacher=model)


UNSOUND = {"checkpoints": [{"id": "a", "description": "It.", "points": 8, "critical": True}]}


@pytest.mark.parametrize(
    ("scheme", "mistake"),
    [
        ("none", "Invalid JSON"),
        (json.dumps(UNSOUND), "less than or equal to 7"),
        (json.dumps({"checkpoints": RUBRIC["checkpoints"][:1]}), "a perfect proof earns 3 (3 from checkpoints)"),
        (json.dumps({"checkpoints": [RUBRIC["checkpoints"][0] | {"points": 7}]}), "no checkpoint is critical"),
        (
            json.dumps({"checkpoints": RUBRIC["checkpoints"], "parallel": [
                {"id": "p", "description": "Or.", "chains": [
                    {"id": f"c{n}", "description": "So.", "checkpoints": [
                        {"id": f"k{n}", "description": "Step.", "points": 1}]} for n in range(2)]}]}),
            "more than can be earned",
        ),
    ],
)  # fmt: skip
def test_an_unsound_scheme_is_asked_for_again_with_the_mistake_named(tmp_path, scheme, mistake):
    model = Played(lambda messages: json.dumps(RUBRIC) if len(messages) > 1 else scheme)
    left, tally, _ = run_stage(rubrics(RubricStage(model=MODEL), PLACE), [ROW], tmp_path, model=model)
    assert Rubric.parse(left[0].rubric) == read_rubric(json.dumps(RUBRIC))
    assert mistake in model.heard[1][0][2]["content"]
    assert tally.counts["schemes written"] == 1


def test_a_scheme_that_stays_unsound_is_parked_after_all_tries(tmp_path):
    model = Played(lambda _: json.dumps(UNSOUND))
    spec = RubricStage(model=MODEL, tries=3, max_parked_percent=100)
    left, tally, _ = run_stage(rubrics(spec, PLACE), [ROW], tmp_path, model=model)
    assert left == [] and len(model.heard) == 3
    assert tally.counts["dropped parked: unsound scheme"] == 1


def test_rows_with_a_scheme_are_not_asked_for_and_rows_without_a_solution_can_have_none(tmp_path):
    rows = [replace(ROW, id="has", rubric="seven points"), replace(ROW, id="lacks", reference=None)]
    model = Played(lambda _: json.dumps(RUBRIC))
    left, tally, _ = run_stage(rubrics(RubricStage(model=MODEL), PLACE), rows, tmp_path, model=model)
    assert left == rows[:1] and model.heard == []
    assert tally.counts == {"schemes kept": 1, "dropped NoReference": 1}
    (tmp_path / "other").mkdir()
    spec = RubricStage(model=MODEL, overwrite=True)
    left, *_ = run_stage(rubrics(spec, PLACE), rows[:1], tmp_path / "other", model=model)
    assert len(model.heard) == 1 and left[0].rubric != "seven points"


def test_how_gradings_become_one_score():
    assert [aggregate([7.0, 3.0, 6.0], how) for how in ("Mean", "Median", "Min")] == [pytest.approx(16 / 3), 6.0, 3.0]


def test_candidates_are_graded_by_the_checker_and_cut_off_ones_are_not(tmp_path):
    candidates = [Candidate(PROOF), Candidate("nonsense"), Candidate(PROOF, finish_reason="length"), Candidate("")]
    stage = grade(GradeStage(grader=CHECKER, gradings=2), PLACE)
    left, tally, _ = run_stage(stage, [replace(ROW, candidates=candidates)], tmp_path)
    assert [(item.score, item.votes) for item in left[0].candidates] == [
        (7.0, [7.0, 7.0]), (0.0, [0.0, 0.0]), (None, []), (None, []),
    ]  # fmt: skip
    assert tally.counts["gradings"] == 4 and tally.counts["cut off or empty, not graded"] == 2


def test_a_row_without_candidates_has_its_solutions_graded(tmp_path):
    row = replace(ROW, solutions=[PROOF], reasoning=["Hm."])
    left, *_ = run_stage(grade(GradeStage(grader=CHECKER), PLACE), [row], tmp_path)
    assert left[0].candidates == [Candidate(PROOF, "Hm.", score=7.0, votes=[7.0])]


def test_a_row_that_cannot_be_graded_is_parked_with_the_grader_s_reason(tmp_path):
    row = ProblemRow("p", "Prove that 1 = 1.", candidates=[Candidate("Clear.")])
    stage = grade(GradeStage(grader=CHECKER, max_parked_percent=100), PLACE)
    left, tally, _ = run_stage(stage, [row], tmp_path)
    assert left == [] and tally.counts["dropped parked: no grade"] == 1
    assert "not a tiny-divisibility problem" in tally.log[0]["reason"]


def test_the_pass_rate_is_that_of_the_attempts_and_a_cut_off_attempt_is_none(tmp_path):
    said = iter([PROOF, PROOF, "\n".join(PROOF.split("\n")[1:]), ChatAnswer(PROOF, "length", 9, 96)])
    model = Played(lambda _: next(said))
    stage = difficulty(DifficultyStage(model=MODEL, samples=4, grader=CHECKER), PLACE)
    left, tally, _ = run_stage(stage, [ROW], tmp_path, model=model)
    assert (left[0].pass_rate, left[0].attempts) == (0.5, 4)
    assert 0.5 < left[0].mean_reward < 0.75
    assert tally.counts["attempts"] == 4 and tally.counts["passes"] == 2


def test_attempts_without_an_answer_don_t_count_as_failed(tmp_path):
    said = iter([PROOF, Unavailable("HTTP 500"), PROOF])
    model = Played(lambda _: next(said))
    stage = difficulty(DifficultyStage(model=MODEL, samples=3, grader=CHECKER), PLACE)
    left, tally, _ = run_stage(stage, [ROW], tmp_path, model=model)
    assert (left[0].pass_rate, left[0].attempts) == (1.0, 2)
    assert tally.counts["attempts missing"] == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"budget": {"cost": "5"}, "teacher": MODEL}, "budget.cost can't be kept without a price: set endpoint.price"),
        ({"budget": {"cost": "5"}, "teacher": {"model": {"uri": "/m"}}}, "use budget.tokens"),
        ({"budget": {"cost": "-1"}, "teacher": MODEL}, "must be 0 (no limit) or more"),
    ],
)
def test_a_budget_in_money_needs_a_price(spec, told):
    with pytest.raises(ValueError, match=told.replace("(", r"\(").replace(")", r"\)")):
        GenerateStage(**spec)
