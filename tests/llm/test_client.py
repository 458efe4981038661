"""The client against a real local server that misbehaves in every way real ones do."""

from __future__ import annotations

import asyncio
import random
import time
from email.utils import formatdate

import pytest
from aiohttp import web

from qednano.errors import Unavailable
from qednano.llm.chat import ChatParams
from qednano.llm.client import LlmClient, RequestRefused, RetryPolicy, SamplingParams, written_proof
from tests.llm.misbehaving import break_off, completion, endpoint, hang, says, status

FAST = RetryPolicy(tries=4, first=0.01, longest=0.02, longest_retry_after=0.3, patience=5.0)


async def complete(url: str, n: int = 1, **options):
    async with LlmClient(url, retry=options.pop("retry", FAST), **options) as client:
        return await client.complete([1, 2, 3], SamplingParams(max_tokens=8, temperature=0.7, top_p=0.9), n=n)


@pytest.mark.parametrize(
    "trouble",
    [
        status(429),
        status(500),
        status(503),
        break_off,
        says({"choices": []}),
        says({"error": "odd"}),
        status(200, "{not json"),
        says(completion(logprobs={"token_logprobs": [-1.0]})),
        says(completion(logprobs={"token_logprobs": [None, None]})),
    ],
    ids=["429", "500", "503", "broken-off", "no-choices", "no-answer", "no-json", "too-few-logprobs", "null-logprobs"],
)
async def test_passing_trouble_is_tried_again(trouble):
    async with endpoint(trouble, trouble, says(completion())) as (server, url):
        batch = await complete(url)
    assert batch.choices[0].token_ids == [5, 6] and batch.choices[0].logprobs == [-1.5, -0.25]
    assert len(server.requests) == 3


async def test_what_was_asked_is_what_is_sent(tmp_path):
    headers = {"x-qednano-version-start": "3", "x-qednano-version-end": "4"}
    async with endpoint(says(completion(2), **headers)) as (server, url):
        batch = await complete(url, n=2)
    (_, body) = server.requests[0]
    assert body["prompt"] == [1, 2, 3] and body["n"] == 2
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (8, 0.7, 0.9)
    assert (batch.version_start, batch.version_end) == (3, 4)


@pytest.mark.parametrize("code", [400, 401, 404, 422])
async def test_a_refusal_is_not_tried_again(code):
    async with endpoint(status(code, "prompt is too long")) as (server, url):
        with pytest.raises(RequestRefused, match="prompt is too long") as caught:
            await complete(url)
    assert caught.value.status == code and len(server.requests) == 1


async def test_lasting_trouble_ends_with_the_number_of_tries_and_the_last_words():
    async with endpoint(status(503, "overloaded")) as (server, url):
        with pytest.raises(Unavailable, match=r"4 tries.*overloaded"):
            await complete(url)
    assert len(server.requests) == 4


async def test_a_hanging_server_is_given_up_after_the_timeout():
    async with endpoint(hang, says(completion())) as (server, url):
        await complete(url, timeout=0.2)
    assert len(server.requests) == 2


async def test_no_server_at_all_is_unavailable():
    with pytest.raises(Unavailable, match="Connect"):
        await complete("http://127.0.0.1:9", retry=RetryPolicy(tries=2, first=0.01))


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_obeyed_within_reason(form):
    value = "0.25" if form == "seconds" else formatdate(time.time() + 50, usegmt=True)
    async with endpoint(status(429, Retry_After=value), says(completion())) as (server, url):
        await complete(url)
    waited = server.requests[1][0] - server.requests[0][0]
    assert 0.2 <= waited < 5, "0.25 s, or 50 s cut to the longest allowed 0.3 s"


async def test_no_more_requests_at_once_than_allowed():
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.json_response(completion())

    async with endpoint(slow) as (server, url), LlmClient(url, max_concurrent=3) as client:
        await asyncio.gather(*(client.complete([1], SamplingParams(4)) for _ in range(12)))
    assert server.most == 3 and len(server.requests) == 12


async def test_chat_answers_carry_text_and_price():
    body = {
        "choices": [{"message": {"content": "QED"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    }
    async with endpoint(says(body)) as (server, url), LlmClient(url, retry=FAST) as client:
        answer = await client.chat([{"role": "user", "content": "Prove."}], ChatParams(9))
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("QED", 7, 2)
    assert server.requests[0][1]["max_tokens"] == 9


def test_backoff_doubles_up_to_its_limit_with_full_jitter():
    policy, rng = RetryPolicy(first=1.0, longest=8.0), random.Random(0)
    for failures, limit in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (9, 8.0)):
        waits = [policy.wait(failures, None, rng) for _ in range(500)]
        assert 0 <= min(waits) < 0.1 * limit and 0.9 * limit < max(waits) <= limit


@pytest.mark.parametrize(
    ("text", "reasoning", "proof"),
    [
        ("E = 2k.", False, "E = 2k."),
        ("hm</think>\nE = 2k.", True, "E = 2k."),
        ("a</think>draft</think> final ", True, "final"),
        ("hm</think>", True, ""),
        ("still thinking", True, ""),
        ("<think>still thinking", False, ""),
    ],
)
def test_only_what_follows_the_last_end_of_reasoning_is_the_proof(text, reasoning, proof):
    assert written_proof(text, reasoning) == proof
