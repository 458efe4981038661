"""Chats with a real local server: whatever it does, one answer comes of it, counted once, and one line a cause."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from qednano.api.language import Price, Protocol, ReasoningEffort
from qednano.llm.chat import ChatParams
from qednano.llm.client import LlmClient, RequestRefused, RetryPolicy
from qednano.llm.transport import shown
from tests.llm.misbehaving import (
    break_off,
    chat,
    delta,
    drip,
    endpoint,
    hang,
    reset,
    says,
    sends,
    status,
    streams,
)

FAST = RetryPolicy(tries=4, first=0.01, longest=0.02, longest_retry_after=0.3, patience=5.0)
QUESTION = [{"role": "user", "content": "Prove it."}]
STREAMED = {"stream_from": 1}


async def ask(url: str, params: ChatParams | None = None, **options):
    async with LlmClient(url, model="m", retry=options.pop("retry", FAST), **options) as client:
        return await client.chat(QUESTION, params or ChatParams(max_tokens=64))


SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}}
RESPONSE = {
    "model": "m-1",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "QED"}]},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 2},
}


@pytest.mark.parametrize(
    "message",
    [
        {"text": "QED", "reasoning_content": "hm"},
        {"text": "QED", "reasoning": "hm"},
        {"text": "<think>hm</think>\n\nQED"},
        {"text": "hm</think>QED"},
        {"text": [{"type": "text", "text": "QED"}], "reasoning": "hm"},
    ],
    ids=["reasoning_content", "reasoning", "tags", "closing-tag", "parts"],
)
async def test_thinking_is_kept_apart_however_it_comes(message):
    async with endpoint(says(chat(**message))) as (_, url):
        answer = await ask(url)
    assert (answer.text, answer.reasoning) == ("QED", "hm")


@pytest.mark.parametrize("body", [chat("still th"), chat(None, reasoning_content="still th"), chat("<think>still th")])
async def test_an_answer_cut_off_while_it_thinks_states_nothing(body):
    body["choices"][0]["finish_reason"] = "length"
    async with endpoint(says(body)) as (_, url), LlmClient(url, retry=FAST) as client:
        answer = await client.chat(QUESTION, ChatParams(64), opened=True)
    assert answer.text == "" and answer.reasoning == "still th" and answer.cut_off


async def test_responses_are_read_and_asked_for_in_their_own_words():
    async with endpoint(says(RESPONSE)) as (server, url):
        params = ChatParams(64, temperature=0.5, reasoning_effort=ReasoningEffort.LOW, schema=SCHEMA)
        answer = await ask(url, params, protocol=Protocol.RESPONSES)
    assert (answer.text, answer.reasoning, answer.prompt_tokens, answer.completion_tokens) == ("QED", "hm", 7, 2)
    body = server.bodies[0]
    assert server.paths == ["/v1/responses"] and body["input"] == QUESTION and body["max_output_tokens"] == 64
    assert body["reasoning"] == {"effort": "low"} and body["text"]["format"]["schema"] == SCHEMA
    assert body["store"] is False


@pytest.mark.parametrize(("base", "path"), [("", "/v1"), ("/v1/", "/v1"), ("/api/v1", "/api/v1"), ("/v1beta/x", "")])
async def test_the_version_is_added_only_where_it_is_missing(base, path):
    async with endpoint(says(chat())) as (server, url):
        await ask(url + base)
    assert server.paths == [(path or "/v1beta/x") + "/chat/completions"]


EVENTS = [
    b": keep-alive\n\n",
    delta(reasoning_content="h"),
    delta(reasoning_content="m"),
    b'data: {"choices": [{"index": 0, "delta": {"content": "Q"}, "finish_reason": null}]}\r\n\r\n',
    delta("ED"),
    delta("", "stop"),
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, "model": "m-1"},
]


async def test_a_stream_gives_the_answer_that_would_have_come_at_once():
    async with endpoint(streams(*EVENTS)) as (server, url):
        answer = await ask(url, **STREAMED)
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("QED", "hm", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.model) == (7, 2, "m-1")
    assert server.bodies[0]["stream"] is True


async def test_a_stream_of_the_responses_api_ends_with_the_whole_answer():
    events = [
        {"type": "response.output_text.delta", "delta": "QE"},
        {"type": "response.completed", "response": RESPONSE},
    ]
    async with endpoint(streams(*events)) as (_, url):
        answer = await ask(url, protocol=Protocol.RESPONSES, **STREAMED)
    assert (answer.text, answer.reasoning) == ("QED", "hm")


async def test_long_streams_live_as_long_as_they_give_signs_of_life():
    async with endpoint(streams(*EVENTS, pause=0.15)) as (server, url):
        answer = await ask(url, idle_timeout=0.6, **STREAMED)
    assert answer.text == "QED" and len(server.requests) == 1, "1.05 s in all, 0.15 s between two events"


BIG = "x" * (1 << 20)


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        (sends(b'{"choices": [{"mess'), "unreadable"),
        (sends(b"\xff\xfe\x00"), "unreadable"),
        (sends(b"<html>Login</html>", "text/html"), "unreadable"),
        (sends(b""), "unreadable"),
        (says({"choices": []}), "incomplete"),
        (says([]), "incomplete"),
        (says({"choices": [{"finish_reason": "stop"}]}), "incomplete"),
        (says({"error": {"message": "upstream", "code": 502}}), "server error"),
        (says({"error": {"message": "slow down", "code": 429}}), "rate limited"),
        (status(429), "rate limited"),
        (status(503), "overloaded"),
        (status(500, BIG), "server error"),
        (sends(BIG.encode()), "unreadable"),
        (break_off, "cut short"),
        (reset, "connection"),
        (hang, "timeout"),
        (drip(chat(), 5.0), "timeout"),
        (streams(delta("Q"), cut=True), "cut short"),
        (streams(delta("Q"), end=False), "cut short"),
        (streams(delta("Q"), b"data: {nope\n\n"), "unreadable"),
        (streams(delta("Q"), {"error": {"message": "gpu lost"}}), "server error"),
        (streams(delta("Q"), b"data: " + BIG.encode() + b"\n\n"), "unreadable"),
        (streams(delta("Q"), delta("E"), pause=0.8), "timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_any_trouble_is_one_line_and_the_answer_comes_and_is_counted_once(trouble, cause, caplog):
    before = _counted("prompt_tokens_total"), _counted("cost_total")
    price = Price(input_per_million="1", output_per_million="2")
    async with endpoint(trouble, trouble, streams(*EVENTS)) as (server, url):
        answer = await ask(url, role="trouble", timeout=1.0, idle_timeout=0.4, price=price, **STREAMED)
    assert answer.text == "QED" and len(server.requests) == 3
    assert answer.cost == Decimal("0.000011")
    assert _counted("prompt_tokens_total") - before[0] == 7
    assert _counted("cost_total") - before[1] == pytest.approx(0.000011)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("qednano")]
    assert len(lines) == 2, "one when it first shows, one that says how often it came again"
    assert all(f"trouble: {cause}: " in line for line in lines) and "1 more; the last" in lines[1]
    assert max(map(len, lines)) < 1000


def _counted(name: str) -> float:
    return REGISTRY.get_sample_value(f"qednano_llm_{name}", {"role": "trouble"}) or 0.0


async def test_a_one_megabyte_answer_in_one_line_is_read():
    body = chat(BIG)
    async with endpoint(says(body), streams(delta(BIG, "stop"))) as (_, url), LlmClient(url, **STREAMED) as client:
        assert (await client.chat(QUESTION, ChatParams(8))).text == BIG
        assert (await client.chat(QUESTION, ChatParams(8))).text == BIG


async def test_a_storm_of_429_loses_nothing():
    storm = [status(429, Retry_After="0.01")] * 60
    async with endpoint(*storm, says(chat())) as (server, url), LlmClient(url, retry=FAST, max_concurrent=16) as client:
        answers = await asyncio.gather(*(client.chat(QUESTION, ChatParams(8)) for _ in range(40)))
        assert len(answers) == 40 and len(server.requests) == 100
        assert client.limit < 16, "the storm slowed it"
        for _ in range(200):
            await client.chat(QUESTION, ChatParams(8))
        assert client.limit == 16, "answers brought it back"


async def test_what_a_server_can_t_do_is_left_out_and_remembered():
    async def old(request: web.Request) -> web.Response:
        body = await request.json()
        for name in ("response_format", "stream_options"):
            if name in body:
                return web.json_response({"error": {"message": f"unknown field {name}"}}, status=400)
        return web.json_response(chat())

    params = ChatParams(64, schema=SCHEMA)
    async with endpoint(old) as (server, url), LlmClient(url, retry=FAST, **STREAMED) as client:
        await client.chat(QUESTION, params)
        asked = len(server.requests)
        await client.chat(QUESTION, params)
    assert asked == 3 and len(server.requests) == 4


async def test_newer_names_are_used_where_the_old_are_refused():
    async def strict(request: web.Request) -> web.Response:
        body = await request.json()
        if "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return web.json_response({"error": {"message": words}}, status=400)
        if "top_p" in body:
            return web.json_response({"error": {"message": "Unsupported parameter: 'top_p'"}}, status=400)
        return web.json_response(chat())

    async with endpoint(strict) as (server, url):
        await ask(url)
    assert server.bodies[-1]["max_completion_tokens"] == 64 and "top_p" not in server.bodies[-1]


async def test_a_refusal_that_no_dialect_helps_against_says_the_first_reason():
    async with endpoint(status(400, "the prompt is too long"), status(400, "still")) as (server, url):
        with pytest.raises(RequestRefused, match="too long"):
            await ask(url, ChatParams(64, schema=SCHEMA))
    assert len(server.requests) == 2
    async with endpoint(status(400, "sampling: temperature must be low")) as (server, url):
        with pytest.raises(RequestRefused, match="temperature"):
            await ask(url, ChatParams(64, temperature=1.5))
    assert len(server.requests) == 1, "what the caller wants is never dropped"


async def test_the_key_is_sent_and_never_told(caplog):
    key = "sk-very-secret"
    async with endpoint(status(500, f"bad key {key}"), status(401, f"key {key} is unknown")) as (server, url):
        secret_url = url.replace("http://", "http://user:word@") + "/?token=hidden"
        with pytest.raises(RequestRefused) as caught:
            await ask(url, api_key=key)
        assert server.headers[0]["Authorization"] == f"Bearer {key}"
        client = LlmClient(secret_url, api_key=key)
    assert key not in f"{caught.value}{caught.value.__cause__}{caplog.text}{client!r}{vars(client)!r}"
    assert "word" not in shown(secret_url) and "hidden" not in shown(secret_url)


async def test_cancelling_leaves_nothing_taken():
    async with endpoint(hang) as (server, url), LlmClient(url, max_concurrent=2, role="cancelled") as client:
        tasks = [asyncio.create_task(client.chat(QUESTION, ChatParams(8))) for _ in range(6)]
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        assert client._limit.in_flight == 0
        server.behaviours = [says(chat())]
        assert (await client.chat(QUESTION, ChatParams(8))).text == "QED"
    labels = {"role": "cancelled"}
    assert REGISTRY.get_sample_value("qednano_llm_in_flight", labels) == 0
    assert REGISTRY.get_sample_value("qednano_llm_concurrency_limit", labels) == 0, "closed"


async def test_an_unknown_price_is_not_a_price_of_nothing():
    async with endpoint(says(chat())) as (_, url):
        assert (await ask(url)).cost is None
        assert (await ask(url, price=Price())).cost == 0
    untold = chat()
    del untold["usage"]
    async with endpoint(says(untold)) as (_, url):
        assert (await ask(url, price=Price(input_per_million="1"))).cost is None
