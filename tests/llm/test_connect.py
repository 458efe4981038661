"""From a spec to models that can be asked."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from qednano.errors import ConfigError
from qednano.job import JobContext, RunConfig
from qednano.llm.chat import ChatParams
from qednano.llm.client import RequestRefused
from qednano.llm.connect import open_models
from qednano.progress import Reporter
from qednano.rl.pool import ServerRecord, announce
from tests.llm.misbehaving import chat, endpoint, hang, says, status

QUESTION = [{"role": "user", "content": "Prove it."}]
KEY = {"name": "openai", "key": "api-key"}


def context(folder: Path, *stages: dict) -> JobContext:
    spec = {
        "sources": [{"name": "tiny", "generator": {"name": "tiny-divisibility", "problems": 10}}],
        "stages": list(stages),
        "splits": [{"name": "train", "problems": 1}],
    }
    config = RunConfig(
        api_version="qednano.dev/v1alpha1",
        kind="ProofDataset",
        name="d",
        spec=spec,
        inputs={"served/teacher": {"name": "big", "uri": "/models/big"}},
    )
    return JobContext(config, folder, folder, "dataset", 0, 1, "127.0.0.1", 0, Reporter(), threading.Event())


def at(url: str, **changes: object) -> dict:
    return {"generate": {"teacher": {"endpoint": {"url": url, "model": "m", **changes}}}}


async def test_endpoints_by_their_field_with_the_key_of_the_environment(tmp_path):
    async with endpoint(says(chat())) as (server, url):
        ctx = context(tmp_path, at(url, apiKey=KEY), at(url, apiKey=KEY), at(f"{url}/v1"))
        for variable in ("QED_SECRET_OPENAI_API_KEY", "OPENAI_API_KEY"):
            async with open_models(ctx, {variable: "sk-1\n"}) as models:
                assert set(models) == {f"stages/{number}/generate/teacher" for number in range(3)}
                answer = await models["stages/0/generate/teacher"].chat(QUESTION, ChatParams(8))
                assert models["stages/0/generate/teacher"] is models["stages/1/generate/teacher"], "one set of limits"
            assert answer.text == "QED" and answer.cost is None
            assert server.headers[-1]["Authorization"] == "Bearer sk-1"


@pytest.mark.parametrize("env", [{}, {"OPENAI_API_KEY": " "}, {"OPENAI_API_KEY": "a b"}])
async def test_a_key_that_is_missing_is_named_and_a_bad_one_not_shown(tmp_path, env):
    with pytest.raises(ConfigError, match="stages/0/generate/teacher/endpoint/apiKey.*OPENAI_API_KEY") as caught:
        async with open_models(context(tmp_path, at("http://127.0.0.1:9", apiKey=KEY)), env):
            pass
    assert "a b" not in str(caught.value)


async def test_the_cache_is_used_when_it_is_asked_for(tmp_path):
    async with endpoint(says(chat())) as (server, url):
        for _ in range(2):
            async with open_models(context(tmp_path / "ns" / "pds" / "run", at(url, cache=True)), {}) as models:
                await models["stages/0/generate/teacher"].chat(QUESTION, ChatParams(8, seed=1))
    assert len(server.requests) == 1


ANY = {"type": "object"}  # what must keep to a schema is asked for as a chat
SERVED = {"generate": {"teacher": {"model": {"uri": "/qed/big"}, "server": {"maxModelLength": 64}}}}


def tokens(count: int, last: str):
    return says({"tokens": list(range(count)), "token_strs": ["a"] * (count - 1) + [last]})


def here(folder: Path, name: str, url: str) -> None:
    announce(folder, ServerRecord(name, url, 0, time.time(), os.getpid()))


async def test_a_served_model_outlives_its_server_and_keeps_to_its_length(tmp_path):
    async with endpoint(tokens(60, "<think>"), says(chat("hm</think>QED"))) as (server, url):
        here(tmp_path, "teacher-0", "http://127.0.0.1:9")  # dead: its record is not yet stale
        here(tmp_path, "teacher-1", url)
        async with open_models(context(tmp_path, SERVED), {}) as models:
            answer = await models["stages/0/generate/teacher"].chat(QUESTION, ChatParams(1000, schema=ANY))
    assert (answer.text, answer.reasoning, answer.model) == ("QED", "hm", "big")
    assert answer.cost == 0, "its GPUs are not paid by the token"
    assert server.paths == ["/tokenize", "/v1/chat/completions"]
    assert server.bodies[1]["max_tokens"] == 4


async def test_a_cut_off_thought_of_a_served_model_is_no_answer(tmp_path):
    async with endpoint(tokens(10, "<think>\n"), says(chat("still th"))) as (_, url):
        here(tmp_path, "teacher-0", url)
        async with open_models(context(tmp_path, SERVED), {}) as models:
            answer = await models["stages/0/generate/teacher"].chat(QUESTION, ChatParams(8, schema=ANY))
    assert (answer.text, answer.reasoning) == ("", "still th")


async def test_a_request_leaves_a_server_whose_node_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("qednano.rl.pool.LAPSE_SECONDS", 0.5)
    monkeypatch.setattr("qednano.llm.served._LOOK_SECONDS", 0.1)
    async with endpoint(tokens(10, "a"), hang) as (lost, dead), endpoint(says(chat())) as (_, live):
        here(tmp_path, "teacher-0", dead)
        async with open_models(context(tmp_path, SERVED), {}) as models:
            asking = asyncio.create_task(models["stages/0/generate/teacher"].chat(QUESTION, ChatParams(8, schema=ANY)))
            while len(lost.requests) < 2:
                await asyncio.sleep(0.02)
            while not asking.done():  # the live one's heart beats on, the other's has stopped
                here(tmp_path, "teacher-1", live)
                await asyncio.sleep(0.1)
            assert (await asking).text == "QED"


@pytest.mark.parametrize(("behaviour", "words"), [(tokens(64, "a"), "maxModelLength"), (status(400), "refused")])
async def test_what_a_served_model_refuses_is_said(tmp_path, behaviour, words):
    async with endpoint(behaviour) as (_, url):
        here(tmp_path, "teacher-0", url)
        async with open_models(context(tmp_path, SERVED), {}) as models:
            with pytest.raises(RequestRefused, match=words):
                await models["stages/0/generate/teacher"].chat(QUESTION, ChatParams(8, schema=ANY))
