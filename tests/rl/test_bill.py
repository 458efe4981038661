"""What a run's language models used is told by the actor, over all its attempts."""

from __future__ import annotations

from decimal import Decimal

from qednano.llm.chat import ChatAnswer, ChatParams
from qednano.rl.bill import Bill, billed
from qednano.rl.sample_log import SampleLog
from tests.rl.servers import StandIn
from tests.rl.test_actor import actor_in, run_until


class Priced:
    name = "priced"

    def __init__(self, **more) -> None:
        self.more = more

    async def chat(self, messages, params) -> ChatAnswer:
        return ChatAnswer("x", "stop", prompt_tokens=10, completion_tokens=4, **self.more)


async def ask(bill: Bill, **more) -> None:
    await billed({"grader/rubric/model": Priced(**more)}, bill)["grader/rubric/model"].chat([], ChatParams(9))


async def test_money_adds_up_and_what_comes_from_the_cache_costs_nothing(tmp_path):
    bill = Bill(tmp_path / "usage.json")
    await ask(bill, cost=Decimal("0.25"))
    await ask(bill, cost=Decimal("0.50"))
    await ask(bill, cost=Decimal("9"), cached=True)
    bill.drawn(5, 100)
    assert bill.headlines() == {"tokens/in": 25, "tokens/out": 108, "cost": 0.75}
    await ask(bill, cost=None)
    assert bill.headlines() == {"tokens/in": 35, "tokens/out": 112}, "no sum of money where a price is unknown"


async def test_the_actor_reports_tokens_of_all_its_attempts(tmp_path):
    drawn = []
    for attempt in (1, 2):
        with SampleLog(tmp_path, f"actor-{attempt}") as log:
            bill = Bill(tmp_path / "actor" / "usage.json")
            async with StandIn(tmp_path, "rollout-0", version=0) as server:
                actor = actor_in(tmp_path, log, spent=bill.drawn, bill=bill)
                most = 4 * attempt
                await run_until(actor, lambda actor=actor, most=most: len(actor.stream.decided()) >= most)
            drawn += server.requests
            told = actor._reporter.report().metrics
    total = {"tokens/in": sum(len(body["prompt"]) for body in drawn), "tokens/out": sum(6 for _ in drawn)}
    assert {name: bill.headlines()[name] for name in total} == total, "each proof of three has two tokens"
    assert Bill(tmp_path / "actor" / "usage.json").headlines() == {**total, "cost": 0.0}
    assert 0 < told["tokens/in"] <= total["tokens/in"] and told["cost"] == 0
