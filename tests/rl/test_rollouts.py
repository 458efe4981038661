"""Answers that outlive their servers: each draft keeps its own random numbers, and waits for none of the others."""

from __future__ import annotations

import asyncio
import json
import math

from aiohttp import web

from qednano.llm.completions import SamplingParams
from qednano.rl.pool import Pool
from qednano.rl.rollouts import Rollouts
from tests.rl.servers import StandIn
from tests.rl.test_actor import until

LENGTH = 4


class Seeded(StandIn):
    """Streams answers whose tokens are all the seed that vLLM gives the answer: that of the request plus its index.

    `breaks`: for each request in turn, how many tokens of each of its answers come before the connection breaks. Those
    that come after them are answered whole, once `later` is set.
    """

    def __init__(self, *args, breaks=()) -> None:
        super().__init__(*args)
        self.breaks = list(breaks)
        self.later = asyncio.Event()
        self.later.set()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        broken = self.breaks[len(self.requests) - 1] if len(self.requests) <= len(self.breaks) else None
        if broken is None:
            await self.later.wait()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-qednano-version-start": "0"})
        await response.prepare(request)
        for index in range(body["n"]):
            count = min(body["max_tokens"], LENGTH if broken is None else broken[index])
            choice = {
                "index": index,
                "text": "",
                "token_ids": [body["seed"] + index] * count,
                "logprobs": {"token_logprobs": [-0.5] * count},
                "finish_reason": "length" if count == body["max_tokens"] else None,
            }
            await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        if broken is not None:
            request.transport.close()
        return response


def firsts(batch) -> list[int]:
    return [choice.token_ids[0] for choice in batch.choices]


async def drawn_by(server: Seeded, folder, n: int):
    async with server, Rollouts(Pool(folder, "rollout")) as rollouts:
        batch = await rollouts.complete([1], SamplingParams(LENGTH, seed=100), n)
    return batch


async def test_drafts_drawn_anew_are_no_copies_of_those_that_were_whole_or_begun(tmp_path):
    """The first is whole, the third begun; the second and fourth have to be drawn anew, each by itself."""
    server = Seeded(tmp_path, "rollout-0", breaks=[(LENGTH, 0, 2, 0)])
    batch = await drawn_by(server, tmp_path, 4)
    assert firsts(batch) == [100, 101, 102, 103], "as if nothing had happened"
    assert [request["n"] for request in server.requests] == [4, 1, 1, 1]
    again = {request["seed"]: request["prompt"] for request in server.requests[1:]}
    assert again == {101: [1], 103: [1], 104: [1, 102, 102]}, "the seed counts place and tokens so far"


async def test_neighbours_without_a_token_share_their_next_request(tmp_path):
    server = Seeded(tmp_path, "rollout-0", breaks=[(LENGTH, 0, 0)])
    batch = await drawn_by(server, tmp_path, 3)
    assert firsts(batch) == [100, 101, 102]
    assert [(request["n"], request["seed"]) for request in server.requests] == [(3, 100), (2, 101)]


async def test_drafts_at_the_same_length_go_on_with_random_numbers_of_their_own(tmp_path):
    server = Seeded(tmp_path, "rollout-0", breaks=[(2, 2, 2)])
    batch = await drawn_by(server, tmp_path, 3)
    assert [choice.token_ids for choice in batch.choices] == [[100 + i] * 2 + [102 + i] * 2 for i in range(3)]


async def test_a_draft_whose_server_dies_again_does_not_wait_for_the_others(tmp_path):
    """Two drafts lose their server; the first of them loses the next one too while the other's answer takes long."""
    server = Seeded(tmp_path, "rollout-0", breaks=[(2, 2), (1,)])
    server.later.clear()
    async with server, Rollouts(Pool(tmp_path, "rollout")) as rollouts:
        asking = asyncio.create_task(rollouts.complete([1], SamplingParams(LENGTH, seed=100), 2))
        await until(lambda: len(server.requests) == 4)
        assert not asking.done()
        server.later.set()
        batch = await asking
    assert sorted(len(request["prompt"]) for request in server.requests) == [1, 3, 3, 4]
    assert all(len(choice.token_ids) == LENGTH for choice in batch.choices)


async def test_a_log_prob_that_is_no_number_is_not_taken(tmp_path):
    """Broken weights: the server is left, and what it gave does not reach the trainer."""

    class Broken(StandIn):
        async def complete(self, request: web.Request) -> web.Response:
            body = await request.json()
            self.requests.append(body)
            value = math.nan if len(self.requests) == 1 else -0.5
            choice = {
                "index": 0, "text": "x", "finish_reason": "stop", "token_ids": [1],
                "logprobs": {"token_logprobs": [value]},
            }  # fmt: skip
            return web.json_response({"choices": [choice]})

    async with Broken(tmp_path, "rollout-0") as server, Rollouts(Pool(tmp_path, "rollout")) as rollouts:
        batch = await rollouts.complete([1], SamplingParams(LENGTH, seed=1), 1)
    assert len(server.requests) == 2
    assert batch.choices[0].logprobs == [-0.5]
