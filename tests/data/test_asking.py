"""Asking for many units at once: each once, no more in flight than allowed, within the budget, and causes told once."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from decimal import Decimal

import pytest

from qednano.api.data_stages import Budget
from qednano.data.answers import Answers, Usage
from qednano.data.asking import Metered, Parked, Progress, Unit, ask_all
from qednano.errors import ConfigError, DataError, Stopped, Unavailable
from qednano.llm.chat import ChatAnswer, ChatParams
from qednano.llm.client import RequestRefused


class Model:
    """Answers at once, 10 tokens in and 20 out; fails where it is told to, and counts who asked."""

    name = "fake"

    def __init__(self, faults: dict[str, Exception] | None = None, price: str | None = "0.01"):
        self.faults, self.price = faults or {}, price
        self.asked: Counter[str] = Counter()
        self.in_flight = self.most = 0
        self.begun_before_the_first_ended: int | None = None

    async def chat(self, messages, params):
        text = messages[-1]["content"]
        self.asked[text] += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0)
            if text in self.faults:
                raise self.faults[text]
        finally:
            self.in_flight -= 1
        if self.begun_before_the_first_ended is None:
            self.begun_before_the_first_ended = len(self.asked)
        cost = None if self.price is None else Decimal(self.price)
        return ChatAnswer(text.upper(), "stop", 10, 20, cost=cost)


def unit(model, key: str) -> Unit:
    async def ask():
        answer = await Metered(model).chat([{"role": "user", "content": key}], ChatParams(8))
        if answer.text.startswith("BAD"):
            raise Parked("unreadable", f"{answer.text} is no JSON")
        return {"text": answer.text}

    return Unit(key, f"row-{key}", ask)


def run(rows, folder, *, in_flight=4, budget=None, guess=None, check=lambda progress: None):
    async def main():
        with Answers(folder) as answers:
            return await ask_all(
                iter(rows),
                answers,
                total=len(rows),
                in_flight=in_flight,
                budget=budget or Budget(),
                guess=guess or Usage(1, 0, 30, Decimal("0.01")),
                stage="it",
                check=check,
            )

    return asyncio.run(main())


def test_every_unit_is_asked_once_and_a_second_run_asks_nobody(tmp_path):
    model = Model()
    rows = [[unit(model, f"{row}-{sample}") for sample in range(3)] for row in range(20)]
    progress = run(rows, tmp_path)
    assert (progress.rows, progress.parked) == (20, 0)
    assert set(model.asked.values()) == {1} and len(model.asked) == 60
    assert model.most == 4
    run(rows, tmp_path)
    assert sum(model.asked.values()) == 60
    assert Answers(tmp_path).usage == Usage(60, 600, 1200, Decimal("0.60"))


def test_rows_of_one_text_are_asked_once(tmp_path):
    model = Model()
    progress = run([[unit(model, "same")], [unit(model, "same")]], tmp_path)
    assert model.asked["same"] == 1 and progress.rows == 2


def test_rows_are_read_no_faster_than_they_are_asked(tmp_path):
    model, read, seen = Model(), [], []

    def rows():
        for number in range(100):
            read.append(number)
            yield [unit(model, str(number))]

    async def main():
        with Answers(tmp_path) as answers:
            original = answers.append
            answers.append = lambda recorded: (seen.append(len(read) - answers.usage.answers), original(recorded))
            await ask_all(
                rows(),
                answers,
                total=100,
                in_flight=5,
                budget=Budget(),
                guess=Usage(),
                stage="it",
                check=lambda progress: None,
            )

    asyncio.run(main())
    assert max(seen) <= 5 + 1


def test_what_is_parked_has_its_cause_told_once_and_is_asked_again_by_the_next_attempt(tmp_path, caplog):
    model = Model()
    rows = [[unit(model, f"bad-{row}")] for row in range(3)] + [[unit(model, "good")]]
    with caplog.at_level(logging.WARNING):
        progress = run(rows, tmp_path)
    assert progress.parked == 3 and progress.causes == {"unreadable": 3}
    told = [record.getMessage() for record in caplog.records]
    assert told == ["it: row row-bad-0 is parked: unreadable: BAD-0 is no JSON", "it: parked 3: unreadable"]
    run(rows, tmp_path)
    assert model.asked["bad-1"] == 2 and model.asked["good"] == 1
    assert Answers(tmp_path).usage.answers == 7  # what was asked twice was paid twice


def test_a_row_with_one_good_unit_is_not_parked(tmp_path):
    model = Model()
    progress = run([[unit(model, "bad-1"), unit(model, "good")]], tmp_path)
    assert (progress.rows, progress.parked) == (1, 0)


def test_a_server_that_is_gone_ends_the_attempt_and_not_each_row(tmp_path):
    faults = {str(number): Unavailable("connection refused") for number in range(30, 500)}
    model = Model(faults)
    with pytest.raises(Unavailable, match=r"2\d requests in a row failed, the last with: connection refused"):
        run([[unit(model, str(number))] for number in range(500)], tmp_path)
    assert len(model.asked) < 60
    assert Answers(tmp_path).done("29")


def test_a_failure_now_and_then_parks_its_row_alone(tmp_path):
    model = Model({str(number): Unavailable("HTTP 500") for number in range(0, 100, 2)})
    progress = run([[unit(model, str(number))] for number in range(100)], tmp_path)
    assert progress.parked == 50 and progress.causes == {"no answer": 50}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_all_will_meet_ends_the_run_at_once(tmp_path, status):
    model = Model({"3": RequestRefused(f"refused (HTTP {status}): no such key", status)})
    with pytest.raises(ConfigError, match="no such key"):
        run([[unit(model, str(number))] for number in range(100)], tmp_path)


def test_a_request_that_is_refused_for_itself_parks_its_row(tmp_path):
    model = Model({"3": RequestRefused("refused (HTTP 400): prompt too long", 400)})
    progress = run([[unit(model, str(number))] for number in range(9)], tmp_path)
    assert progress.causes == {"refused": 1} and progress.rows == 9


def test_a_stop_keeps_what_had_ended(tmp_path):
    model = Model()

    async def never():
        await asyncio.Event().wait()

    rows = [[unit(model, str(number))] for number in range(10)] + [[Unit("hangs", "row", never)]]

    def check(progress: Progress):
        if progress.rows == 10:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        run(rows, tmp_path, check=check)
    assert all(Answers(tmp_path).done(str(number)) for number in range(10))
    assert not Answers(tmp_path).done("hangs")


def test_a_budget_in_tokens_is_kept_over_all_attempts(tmp_path):
    model = Model()
    rows = [[unit(model, str(number))] for number in range(40)]
    progress = run(rows, tmp_path, budget=Budget(tokens=300))
    assert Answers(tmp_path).usage.tokens == 300  # ten answers of 30
    assert progress.rows == 40 and progress.parked == progress.parked_by_budget == 30
    run(rows, tmp_path, budget=Budget(tokens=300))
    assert Answers(tmp_path).usage.tokens == 300


def test_a_budget_in_money_is_kept(tmp_path):
    model = Model(price="0.25")
    run(
        [[unit(model, str(number))] for number in range(40)],
        tmp_path,
        budget=Budget(cost="2.00"),
        guess=Usage(1, 0, 30, Decimal("0.5")),
    )
    assert Answers(tmp_path).usage.cost == Decimal("2.00")


def test_before_anything_ended_no_more_begins_than_the_guess_allows(tmp_path):
    model = Model()
    run(
        [[unit(model, str(number))] for number in range(40)],
        tmp_path,
        in_flight=20,
        budget=Budget(tokens=900),
        guess=Usage(1, 0, 300),
    )
    assert model.begun_before_the_first_ended == 3
    assert Answers(tmp_path).usage.tokens == 900


def test_a_budget_that_is_to_fail_says_what_was_spent(tmp_path):
    model = Model()
    with pytest.raises(DataError, match=r"300 of 300 tokens\) and .* of 40 rows are done: raise it, or set"):
        run(
            [[unit(model, str(number))] for number in range(40)],
            tmp_path,
            budget=Budget(tokens=300, when_spent="Fail"),
        )
    assert Answers(tmp_path).usage.answers == 10
