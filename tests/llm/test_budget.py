"""Budgets: how far they can be overshot, that they end cleanly, and that cancelled work leaves no trace."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import pytest
from prometheus_client import REGISTRY

from qednano.llm.budget import Budget, Budgeted, BudgetSpent, Spent
from qednano.llm.chat import ChatAnswer, ChatParams


class Teacher:
    """Answers of random length at most `most` tokens."""

    name = "teacher"

    def __init__(self, most: int, cost: Decimal | None = Decimal("0.5")) -> None:
        self.most, self.cost, self.asked, self.in_flight = most, cost, 0, 0
        self._rng = random.Random(0)

    async def chat(self, messages, params) -> ChatAnswer:
        self.asked += 1
        self.in_flight += 1
        try:
            await asyncio.sleep(self._rng.random() / 1000)
            return ChatAnswer("QED", "stop", 0, self._rng.randrange(1, self.most + 1), cost=self.cost)
        finally:
            self.in_flight -= 1


async def _all(model, count: int) -> tuple[int, int]:
    found = await asyncio.gather(*(model.chat([], ChatParams(100)) for _ in range(count)), return_exceptions=True)
    answered = sum(isinstance(item, ChatAnswer) for item in found)
    refused = sum(isinstance(item, BudgetSpent) for item in found)
    assert answered + refused == count
    return answered, refused


async def test_tokens_end_within_what_is_in_flight_and_stay_ended():
    teacher, budget = Teacher(100), Budget(tokens=5000)
    answered, refused = await _all(Budgeted(teacher, budget), 400)
    assert teacher.asked == answered and refused
    assert 4800 <= budget.spent.tokens <= 5000 + 100 * 100
    assert budget.spent.tokens <= 5600, "expected costs are held, so hardly more is spent than allowed"
    assert budget.in_flight == 0
    again = await _all(Budgeted(teacher, budget), 5)
    assert again[1] >= 4


async def test_money_is_exact_and_a_restart_goes_on_from_what_rows_say():
    first = Budget(cost=Decimal("3.0"))
    for _ in range(4):
        first.add(Spent(10, Decimal("0.1")))
    budget = Budget(cost=Decimal("3.0"), spent=first.spent)
    answered, _ = await _all(Budgeted(Teacher(10), budget), 100)
    assert budget.spent.cost == Decimal("0.4") + answered * Decimal("0.5")
    assert budget.spent.cost <= Decimal("3.0") + Decimal("0.5") * 100
    alone = Budget(cost=Decimal("3.0"), spent=first.spent)
    model, done = Budgeted(Teacher(10), alone), 0
    with pytest.raises(BudgetSpent, match=r"2\.9 of 3\.0 in money"):
        while True:
            await model.chat([], ChatParams(10))
            done += 1
    assert done == 5, "the sixth would make it 3.4"


async def test_unpriced_answers_are_counted_as_such_and_cached_ones_cost_nothing():
    budget = Budget(tokens=1000)
    await Budgeted(Teacher(5, cost=None), budget).chat([], ChatParams(5))
    assert budget.spent.unpriced == 1
    assert Spent.on(ChatAnswer("", "stop", 5, 5, cached=True)) == Spent()


async def test_cancelled_requests_give_their_place_back():
    teacher, budget = Teacher(100), Budget(tokens=200)
    model = Budgeted(teacher, budget)
    tasks = [asyncio.create_task(model.chat([], ChatParams(100))) for _ in range(10)]
    while not teacher.asked:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert budget.in_flight == 0 and budget.tokens_left() == 200
    assert (await model.chat([], ChatParams(100))).text == "QED"


async def test_no_limit_holds_nobody_back_and_the_share_is_shown():
    await _all(Budgeted(Teacher(100), Budget()), 50)
    Budget(tokens=100, spent=Spent(25), role="budget-test")
    assert REGISTRY.get_sample_value("qednano_llm_budget_spent_ratio", {"role": "budget-test"}) == 0.25
