"""The record of answers: what was kept survives any death, costs add up once, and a torn line is nobody's."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from qednano.data.answers import Answers, Recorded, Usage, key_of, usage_of
from qednano.errors import DataError


def ended(key: str, value: dict | None = None, tokens: int = 10, cost: str = "0.1", cause: str = "") -> Recorded:
    return Recorded(key, f"row-{key}", value, Usage(1, tokens, 2 * tokens, Decimal(cost)), cause)


def test_what_was_appended_is_there_for_the_next_process(tmp_path):
    with Answers(tmp_path) as answers:
        answers.append(ended("a", {"proof": "∎\n\ud800"}))  # a lone surrogate, as broken servers send
        assert answers.get("a").value == {"proof": "∎\n\ud800"}
    again = Answers(tmp_path)
    assert again.done("a") and not again.done("b")
    assert again.get("a").value == {"proof": "∎\n\ud800"}
    assert again.get("b") is None


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_no_answer_and_no_cost(tmp_path, cut):
    with Answers(tmp_path) as answers:
        answers.append(ended("a", {"n": 1}))
        answers.append(ended("b", {"n": 2}))
    part = tmp_path / "part-000001.jsonl"
    part.write_bytes(part.read_bytes()[:-cut])
    with Answers(tmp_path) as again:
        assert again.done("a") and not again.done("b")
        assert again.usage.answers == 1
        again.append(ended("b", {"n": 3}))
    last = Answers(tmp_path)
    assert last.get("b").value == {"n": 3}
    assert last.usage == Usage(2, 20, 40, Decimal("0.2"))


def test_of_one_key_the_last_counts_and_all_cost(tmp_path):
    with Answers(tmp_path) as answers:
        answers.append(ended("a", None, cause="no answer"))
    assert not Answers(tmp_path).done("a")
    with Answers(tmp_path) as answers:
        assert answers.get("a").cause == "no answer"
        answers.append(ended("a", {"n": 1}))
    again = Answers(tmp_path)
    assert again.done("a") and again.usage.cost == Decimal("0.2")


def test_two_processes_never_write_one_file(tmp_path):
    with Answers(tmp_path) as one, Answers(tmp_path) as other:
        one.append(ended("a", {"n": 1}))
        other.append(ended("b", {"n": 2}))
    assert [path.name for path in sorted(tmp_path.glob("part-*"))] == ["part-000001.jsonl", "part-000002.jsonl"]
    assert Answers(tmp_path).done("a") and Answers(tmp_path).done("b")


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "part-000001.jsonl").write_text('{"key": "a"}\n')
    with pytest.raises(DataError, match=r"part-000001.jsonl line 1 is not a row of answers; remove that line"):
        Answers(tmp_path)


def test_keys_depend_on_every_text_and_where_it_ends():
    keys = {key_of(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), ("ab", "C")]}
    assert len(keys) == 5
    assert key_of("ab", "c") == key_of("ab", "c")


def test_a_cost_that_is_unknown_is_not_told_as_zero():
    usage = Usage(1, 3, 4, Decimal("0.5"))
    assert usage.headlines() == {"tokens/in": 3, "tokens/out": 4, "cost": 0.5}
    usage.add(Usage(1, 1, 1, unpriced=1))
    assert usage.headlines() == {"tokens/in": 4, "tokens/out": 5}


def test_the_run_s_usage_is_the_sum_of_what_each_stage_left(tmp_path):
    for stage in ("filter", "generate"):
        with Answers(tmp_path / stage) as answers:
            answers.append(ended("a", {"n": 1}))
    assert usage_of(tmp_path).tokens == 60
    assert usage_of(tmp_path, without="filter").tokens == 30
    assert json.loads((tmp_path / "filter" / "usage.json").read_text())["cost"] == "0.1"
