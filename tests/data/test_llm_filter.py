"""The filter by a language model: typed verdicts, one repair, parked rows, and which verdict drops."""

from __future__ import annotations

import json

import pytest

from qednano.api.data_stages import LlmFilterStage
from qednano.data.llm_filter import Verdict, llm_filter
from qednano.data.schema import ProblemRow, read_rows
from qednano.errors import DataError
from qednano.llm.chat import ChatAnswer
from tests.data.asked import PLACE, Played, run_stage

ENDPOINT = {"endpoint": {"url": "http://localhost:1", "model": "m"}}
SOUND = {
    "reason": "fine",
    "incomplete": False,
    "wrong": False,
    "gaps": False,
    "disagreement": False,
    "computational": False,
    "difficulty": 6,
}


def verdict(**changes) -> str:
    return json.dumps(SOUND | changes)


def row(name="p", problem="Prove that 2 | n(n + 1).", **more):
    return ProblemRow(name, problem, **more)


def run(says, tmp_path, rows=None, **spec):
    model = Played(says if callable(says) else lambda messages: says)
    stage = llm_filter(LlmFilterStage(model=ENDPOINT, **({"max_parked_percent": 100} | spec)), PLACE)
    left, tally, build = run_stage(stage, rows or [row()], tmp_path, model=model)
    return left, tally, model, build


def test_a_sound_row_goes_on_with_the_difficulty_that_was_found(tmp_path):
    left, tally, model, build = run(verdict(), tmp_path)
    assert left == [row(difficulty=6)]
    assert tally.counts == {"prompt tokens": 10, "completion tokens": 5, "difficulty 6": 1}
    assert build.reporter.report().metrics == {"tokens/in": 10, "tokens/out": 5, "cost": 0.001, "parked": 0}


@pytest.mark.parametrize("name", ["incomplete", "wrong", "gaps", "disagreement", "computational"])
def test_each_verdict_drops_where_it_is_a_rule_and_nowhere_else(tmp_path, name):
    left, tally, *_ = run(verdict(**{name: True}, reason="look at n = 3"), tmp_path)
    assert left == [] and tally.counts[f"dropped {name.capitalize()}"] == 1
    assert tally.log[0]["reason"].endswith(": look at n = 3")
    (tmp_path / "other").mkdir()
    left, *_ = run(verdict(**{name: True}), tmp_path / "other", drop=[])
    assert len(left) == 1


@pytest.mark.parametrize(("found", "stays"), [(4, False), (5, True), (8, True), (9, False)])
def test_difficulties_outside_of_the_range_are_dropped(tmp_path, found, stays):
    left, tally, *_ = run(verdict(difficulty=found), tmp_path, difficulty={"min": 5, "max": 8})
    assert bool(left) is stays
    assert tally.counts["dropped Difficulty"] == (not stays)


def test_the_model_is_given_the_schema_and_everything_that_was_posted(tmp_path):
    rows = [row(reference="By parity.", solutions=["One of two.", "Induction."])]
    *_, model, _ = run(verdict(), tmp_path, rows)
    messages, params = model.heard[0]
    assert params.schema == Verdict.model_json_schema()
    for text in ("Prove that 2 | n(n + 1).", "By parity.", "One of two.", "Induction."):
        assert text in messages[0]["content"]


@pytest.mark.parametrize(
    ("bad", "mistake"),
    [
        ("Looks fine to me.", "Invalid JSON"),
        ("", "the answer is empty"),
        (verdict(difficulty=11), "difficulty: Input should be less than or equal to 10"),
        (verdict(gaps="no"), "gaps: Input should be a valid boolean"),
        (verdict(difficulty="6"), "difficulty: Input should be a valid integer"),
        (json.dumps({name: value for name, value in SOUND.items() if name != "wrong"}), "wrong: Field required"),
        (verdict(nonsense=1), "nonsense: Extra inputs are not permitted"),
        (verdict() + verdict(), "Invalid JSON"),
    ],
)
def test_an_unreadable_verdict_is_asked_for_once_more_with_the_mistake_named(tmp_path, bad, mistake):
    left, tally, model, build = run(lambda messages: verdict() if len(messages) > 1 else bad, tmp_path)
    assert len(left) == 1 and len(model.heard) == 2
    repeated, params = model.heard[1]
    assert [message["role"] for message in repeated] == ["user", "assistant", "user"]
    assert mistake in repeated[2]["content"]
    assert params.seed != model.heard[0][1].seed
    assert build.reporter.report().metrics["tokens/in"] == 20  # both are paid


@pytest.mark.parametrize("wrapped", ["```json\n{}\n```", "<think>{{}}? no.</think>\n{}", "  {}\n"])
def test_a_fence_or_thinking_around_a_verdict_is_no_mistake(tmp_path, wrapped):
    left, _, model, _ = run(wrapped.replace("{}", verdict()).replace("{{}}", "{}"), tmp_path)
    assert len(left) == 1 and len(model.heard) == 1


def test_what_stays_unreadable_is_parked_and_can_be_a_source_again(tmp_path):
    rows = [row("good"), row("bad", "Prove it.", reference="Clear.")]
    says = lambda messages: "no" if "Prove it." in messages[0]["content"] else verdict()  # noqa: E731
    left, tally, model, _ = run(says, tmp_path, rows)
    assert [item.id for item in left] == ["good"]
    assert tally.counts["dropped parked: unreadable verdict"] == 1
    assert "Invalid JSON" in tally.log[0]["reason"]
    assert list(read_rows(tmp_path / "work" / "parked-000000.parquet")) == [rows[1]]
    assert len(model.heard) == 3


def test_an_answer_that_is_cut_off_is_parked_as_such(tmp_path):
    _, tally, model, _ = run(ChatAnswer(verdict()[:20], "length", 10, 16384), tmp_path)
    assert tally.counts["dropped parked: cut off"] == 1
    assert "cut off after 16384 tokens" in model.heard[1][0][2]["content"]


def test_too_many_parked_rows_fail_the_run_with_their_causes(tmp_path):
    rows = [row(str(number), f"Prove {number}.") for number in range(4)]
    says = lambda messages: "no" if "Prove 0." in messages[0]["content"] else verdict()  # noqa: E731
    with pytest.raises(
        DataError, match=r"stage it parked 1 of 4 rows, more than maxParkedPercent 20 allows \(1 unread"
    ):
        run(says, tmp_path, rows, max_parked_percent=20)
    (tmp_path / "other").mkdir()
    left, *_ = run(says, tmp_path / "other", rows, max_parked_percent=25)
    assert len(left) == 3


def test_a_second_attempt_asks_only_for_what_was_parked_and_none_once_the_stage_has_ended(tmp_path):
    rows = [row(str(number), f"Prove {number}.") for number in range(4)]
    says = lambda messages: "no" if "Prove 0." in messages[0]["content"] else verdict()  # noqa: E731
    with pytest.raises(DataError):
        run(says, tmp_path, rows, max_parked_percent=0)
    left, _, model, _ = run(verdict(), tmp_path, rows, max_parked_percent=0)
    assert len(left) == 4 and len(model.heard) == 1
    left, _, model, _ = run(verdict(), tmp_path, rows)
    assert len(left) == 4 and model.heard == []


def test_a_prompt_of_one_s_own_takes_the_place_of_the_built_in_one(tmp_path):
    *_, model, _ = run(verdict(), tmp_path, prompt="Judge: {{ problem }}")
    assert model.heard[0][0][0]["content"].strip() == "Judge: Prove that 2 | n(n + 1)."
