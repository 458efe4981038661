"""The rubric grader with models that answer well, badly, or as the worst judge there is: one that repeats the proof."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from qednano.api.grader import Grader as GraderSpec
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, Unavailable
from qednano.grading.attacks import ATTACKS
from qednano.grading.interface import Failure
from qednano.grading.registry import below, grader_for
from qednano.llm.client import RequestRefused

from .fakes import FakeModel, in_turn, nonce_of, proof_of, said

ROW = ProblemRow(id="p", problem="Prove it.", rubric="1 point for trying.", reference="By magic.")
SCHEME = {
    "checkpoints": [
        {"id": "a", "description": "base", "points": 3},
        {"id": "b", "description": "step", "points": 4},
    ],
    "deductions": [{"id": "gap", "description": "a gap", "points": 1}],
    "caps": [{"id": "circular", "description": "circular", "at_most": 1}],
}


def grader(model, **rubric):
    endpoint = {"endpoint": {"url": "http://localhost:1", "model": "m"}}
    spec = GraderSpec.model_validate({"rubric": {"model": endpoint, **rubric}})
    return grader_for(spec, {"rubric/model": model})


async def test_a_verdict_becomes_a_grade_with_its_words_and_its_bill():
    model = FakeModel(lambda messages: said(messages, 5, errors=["line 2"]))
    grade = await grader(model).grade(ROW, "My proof.")
    assert (grade.score, grade.reason, grade.failure) == (5, "Judged.", None)
    assert grade.details["deductions"] == ["line 2"]
    assert grade.details["usage"] == {"calls": 1, "prompt_tokens": 100, "completion_tokens": 10, "cost": 0.5}
    assert model.params[0].schema["properties"]["nonce"] == {"const": nonce_of(model.asked[0])}
    json.dumps(grade.details)


async def test_the_model_sees_problem_scheme_and_proof_and_the_solution_only_if_wanted():
    model = FakeModel(lambda messages: said(messages, 1))
    await grader(model).grade(ROW, "My proof.")
    await grader(model, referenceSolution=True).grade(ROW, "My proof.")
    without, with_it = (messages[0]["content"] for messages in model.asked)
    for text in ("Prove it.", "1 point for trying.", "My proof."):
        assert text in without and text in with_it
    assert "By magic." in with_it and "By magic." not in without


async def test_a_proof_that_the_token_limit_ended_is_never_complete():
    model = FakeModel(lambda messages: said(messages, 7))
    whole, cut = [await grader(model).grade(ROW, "My proof.", cut_off=cut_off) for cut_off in (False, True)]
    assert (whole.score, cut.score, cut.details["cut_off"]) == (7, 6, {"votes": 7.0, "most": 6})
    told = ["was ended by a limit" in messages[0]["content"] for messages in model.asked]
    assert told == [False, True]
    low = await grader(FakeModel(lambda messages: said(messages, 2))).grade(ROW, "My proof.", cut_off=True)
    assert low.score == 2


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("thinking: 7/7</think>the proof", "the proof"),
        ("</think>a</think> b", "b"),
        ("## Solution\nwork\n\n## Self-Evaluation\nPerfect. Score: 1", "## Solution\nwork"),
        ("**Proof.** work\n**Self evaluation**\nfine", "**Proof.** work"),
        ("# Self Assessment\nhm\n# Solution\nwork", "# Self Assessment\nhm\n# Solution\nwork"),
        ("A self-evaluation of the map f shows x.", "A self-evaluation of the map f shows x."),
    ],
)
async def test_neither_thinking_nor_a_self_evaluation_reaches_the_grader(text, seen):
    model = FakeModel(lambda messages: said(messages, 3))
    await grader(model).grade(ROW, text)
    assert proof_of(model.asked[0]) == seen


@pytest.mark.parametrize("text", ["", "  ", "<think>never ended", "all thought</think>  "])
async def test_an_empty_proof_is_worth_nothing_and_costs_nothing(text):
    model = FakeModel(lambda messages: said(messages, 7))
    assert (await grader(model).grade(ROW, text)).score == 0
    assert model.asked == []


async def test_an_unreadable_answer_is_repaired_once():
    model = FakeModel(in_turn(lambda messages: "I'd say 6.", lambda messages: said(messages, 6)))
    grade = await grader(model).grade(ROW, "x")
    assert (grade.score, grade.details["usage"]["calls"]) == (6, 2)
    assert [message["role"] for message in model.asked[1]] == ["user", "assistant", "user"]
    assert "not one JSON object" in model.asked[1][2]["content"]


async def test_what_stays_unreadable_is_no_grade_and_never_zero():
    model = FakeModel(lambda messages: "7 points")
    grade = await grader(model).grade(ROW, "x")
    assert (grade.score, grade.failure) == (None, Failure.UNREADABLE)
    assert len(model.asked) == 2
    model = FakeModel(lambda messages: "7 points")
    await grader(model, repair=False).grade(ROW, "x")
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (Unavailable("down"), Failure.UNAVAILABLE),
        (RequestRefused("too long", 400), Failure.REFUSED),
        (RuntimeError("bug"), Failure.ERROR),
    ],
)
async def test_a_failing_model_is_no_grade_with_its_cause(error, failure):
    grade = await grader(FakeModel(lambda messages: error)).grade(ROW, "x")
    assert (grade.score, grade.failure) == (None, failure)


@pytest.mark.parametrize(("aggregate", "score"), [("Mean", 4.0), ("Median", 5.0), ("Min", 1.0)])
async def test_votes_become_one_score_and_their_agreement_is_kept(aggregate, score):
    model = FakeModel(in_turn(*(lambda messages, vote=vote: said(messages, vote) for vote in (6, 1, 5))))
    grade = await grader(model, votes=3, aggregate=aggregate).grade(ROW, "x")
    assert grade.score == score
    assert grade.details["agreement"] == {"spread": 5.0, "same": 0.0, "missing": 0}
    assert sorted(vote["score"] for vote in grade.details["votes"]) == [1, 5, 6]
    assert len({nonce_of(messages) for messages in model.asked}) == 3, "each vote has a nonce of its own"


async def test_a_minority_of_missing_votes_is_said_and_a_majority_is_no_grade():
    one_fails = FakeModel(in_turn(lambda m: Unavailable("down"), lambda m: said(m, 4)))
    grade = await grader(one_fails, votes=3).grade(ROW, "x")
    assert (grade.score, grade.details["agreement"]["missing"]) == (4, 1)
    one_comes = FakeModel(in_turn(lambda m: said(m, 4), lambda m: Unavailable("down")))
    assert (await grader(one_comes, votes=3).grade(ROW, "x")).failure is Failure.UNAVAILABLE


async def test_a_typed_scheme_is_marked_by_checkpoint_and_its_arithmetic_is_ours():
    row = ProblemRow(id="p", problem="Prove it.", rubric=json.dumps(SCHEME))
    model = FakeModel(lambda m: said(m, None, points={"a": 3, "b": 2}, flaws=["gap"]))
    grade = await grader(model).grade(row, "x")
    assert grade.score == 4
    assert [(item["id"], item["points"], item["earned"]) for item in grade.details["checkpoints"]] == [
        ("a", 3, 3),
        ("b", 4, 2),
    ]
    assert grade.details["deductions"] == [{"id": "gap", "points": 1, "note": "a gap"}]
    capped = FakeModel(lambda m: said(m, None, points={"a": 3, "b": 4}, flaws=["circular"]))
    assert (await grader(capped).grade(row, "x")).score == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"score": 7, "points": {"a": 3, "b": 4}, "flaws": []},
        {"score": None, "points": {"a": 4, "b": 4}, "flaws": []},
        {"score": None, "points": {"a": 3}, "flaws": []},
        {"score": None, "points": {"a": 3, "b": 4, "c": 0}, "flaws": []},
        {"score": None, "points": {"a": True, "b": 4}, "flaws": []},
        {"score": None, "points": {"a": 3, "b": 4}, "flaws": ["none"]},
        {"score": None, "points": {"a": 3, "b": 4}, "flaws": "gap"},
        {"score": None, "points": [3, 4], "flaws": []},
        {"score": 7},
    ],
)
async def test_marks_that_do_not_fit_the_scheme_are_no_verdict(answer):
    row = ProblemRow(id="p", problem="Prove it.", rubric=json.dumps(SCHEME))
    grade = await grader(FakeModel(lambda m: said(m, **answer))).grade(row, "x")
    assert grade.failure is Failure.UNREADABLE


async def test_a_broken_scheme_is_the_problems_fault_and_is_not_asked_about():
    model = FakeModel(lambda m: said(m, 7))
    grade = await grader(model).grade(ProblemRow(id="p", problem="x", rubric='{"checkpoints": []}'), "x")
    assert (grade.failure, model.asked) == (Failure.UNGRADABLE, [])
    assert "must be 7" in grade.reason


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_judge_that_repeats_the_proof_gives_no_attack_a_point(attack):
    """The worst judge: it says nothing but what the proof says, also when it is asked to repair."""
    for echo in (
        proof_of,
        lambda m: f"<think>{proof_of(m)}</think>{proof_of(m)}",
        lambda m: f"```json\n{proof_of(m)}\n```",
    ):
        grade = await grader(FakeModel(echo)).grade(ROW, attack)
        assert grade.score is None or grade.score == 0
        assert not grade.score


@pytest.mark.parametrize("attack", ATTACKS[::6])
async def test_an_attack_that_an_honest_judge_quotes_changes_nothing(attack):
    model = FakeModel(lambda m: f"<think>{proof_of(m)}</think>" + said(m, 2, assessment=proof_of(m)))
    grade = await grader(model).grade(ROW, f"{attack}\nTrivial.")
    assert grade.score == 2


async def test_a_prompt_of_ones_own_must_let_the_proof_and_the_instructions_through():
    model = FakeModel(lambda m: said(m, 3))
    own = "Mark it. <<<PROBLEM {{ nonce }}>>> {{ instructions }}\n{{ proof }}"
    assert (await grader(model, prompt=own).grade(ROW, "x")).score == 3
    with pytest.raises(ConfigError, match="leaves out {{ instructions }}"):
        grader(model, prompt="Mark {{ proof }}")
    with pytest.raises(ConfigError, match="can't be rendered"):
        grader(model, prompt="{{ proof }}{{ instructions }}{{ solution }}")


async def test_an_unknown_price_makes_the_cost_unknown():
    grade = await grader(FakeModel(lambda m: said(m, 3), cost=None)).grade(ROW, "x")
    assert grade.details["usage"]["cost"] is None
    cheap = await grader(FakeModel(lambda m: said(m, 3), cost=Decimal("0.1")), votes=3).grade(ROW, "x")
    assert cheap.details["usage"]["cost"] == pytest.approx(0.3)


def test_models_are_found_below_a_field_and_a_missing_one_is_named():
    model = FakeModel(lambda m: "")
    assert below({"grader/rubric/model": model, "model": model}, "grader") == {"rubric/model": model}
    spec = GraderSpec.model_validate({"rubric": {"model": {"endpoint": {"url": "http://localhost:1", "model": "m"}}}})
    with pytest.raises(ConfigError, match=r"rubric\.model is not open"):
        grader_for(spec)
