"""The cache: the same question is asked once, another one anew, and a torn entry is none."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from qednano.llm.cache import AnswerCache, Cached
from qednano.llm.chat import ChatAnswer, ChatParams

QUESTION = [{"role": "user", "content": "Prove it. \ud800"}]
PARAMS = ChatParams(64, seed=1, schema={"type": "object"})


class Model:
    name = "m"

    def __init__(self) -> None:
        self.asked = 0

    async def chat(self, messages, params) -> ChatAnswer:
        self.asked += 1
        return ChatAnswer("QED \ud800", "stop", 3, 4, "hm", "m-1", Decimal("0.25"), 1.5)


async def test_an_equal_question_is_answered_from_disk_at_no_cost(tmp_path):
    model = Model()
    first = await Cached(model, AnswerCache(tmp_path), "m").chat(QUESTION, PARAMS)
    second = await Cached(model, AnswerCache(tmp_path), "m").chat([dict(QUESTION[0])], replace(PARAMS))
    assert model.asked == 1 and not first.cached
    assert second == replace(first, cached=True, cost=Decimal(0), seconds=0.0)


@pytest.mark.parametrize("change", [{"seed": 2}, {"temperature": 0.5}, {"schema": None}, {"max_tokens": 65}])
async def test_anything_asked_otherwise_is_asked_anew(tmp_path, change):
    model = Model()
    cached = Cached(model, AnswerCache(tmp_path), "m")
    await cached.chat(QUESTION, PARAMS)
    await cached.chat(QUESTION, replace(PARAMS, **change))
    assert model.asked == 2
    await Cached(model, AnswerCache(tmp_path), "other").chat(QUESTION, PARAMS)
    assert model.asked == 3


async def test_a_torn_or_changed_entry_is_none_and_is_replaced(tmp_path):
    model = Model()
    cached = Cached(model, AnswerCache(tmp_path), "m")
    await cached.chat(QUESTION, PARAMS)
    (path,) = tmp_path.glob("*/*.json")
    whole = path.read_bytes()
    for number, torn in enumerate([whole[:-9], b"", b"[]", whole.replace(b"QED", b"DEQ"), b'{"answer": {}}'], start=2):
        path.write_bytes(torn)
        assert not (await cached.chat(QUESTION, PARAMS)).cached
        assert model.asked == number
        assert path.read_bytes() == whole
