"""States of the reasoning cache: how they are made, shared, drawn, graded, and how old they may be."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web

from qednano.api.rlrun import ReasoningCachePrompts, Turns
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, Unavailable
from qednano.llm.chat import ChatAnswer, ChatParams
from qednano.llm.completions import SamplingParams
from qednano.llm.failures import RequestRefused
from qednano.rl.actor import ActorConfig
from qednano.rl.pool import Pool
from qednano.rl.reasoning_cache import (
    CacheConfig,
    ModelSummariser,
    PolicySummariser,
    ReasoningCache,
    State,
    turn_message,
)
from qednano.rl.rollouts import Rollouts
from qednano.rl.sample_log import SampleLog
from tests.rl.servers import StandIn
from tests.rl.test_actor import CONFIG, actor_in, consume_all, run_until, trainer_publishes, until

ROW = ProblemRow(id="p", problem="what?")
CACHE = CacheConfig(
    cycles=2,
    states_per_problem=2,
    turns=Turns.ALL,
    joined=False,
    max_state_age=1,
    prompts=ReasoningCachePrompts(proceed="{{ problem }}|{{ summary }}", summarise="{{ summary }}+{{ reasoning }}"),
    sampling=SamplingParams(max_tokens=20),
    max_model_length=256,
    seed=1,
)


class Notes:
    """A chat model that gives back what it is told, and remembers it; the first `failing` requests end in `error`."""

    name = "notes"

    def __init__(self, failing: int = 0, error: Exception | None = None) -> None:
        self.told: list[str] = []
        self.failing, self.error = failing, error or Unavailable("the summariser is down")

    async def chat(self, messages, params) -> ChatAnswer:
        if self.failing:
            self.failing -= 1
            raise self.error
        self.told.append(messages[-1]["content"])
        return ChatAnswer(messages[-1]["content"], "stop", 1, 1)


def with_model(rollouts: Rollouts, model: Notes, config: CacheConfig = CACHE, version=lambda: 0) -> ReasoningCache:
    return ReasoningCache(config, rollouts, ModelSummariser(model, ChatParams(100), patience=0), version)


def prompt_of(request: dict) -> str:
    return "".join(map(chr, request["prompt"]))


async def test_each_cycle_reasons_from_the_newest_state_and_summarises_it(tmp_path):
    notes = Notes()
    async with (
        StandIn(tmp_path, "rollout-0", proofs=["found"], version=3) as server,
        Rollouts(Pool(tmp_path, "rollout")) as rollouts,
    ):
        cache = with_model(rollouts, notes, version=lambda: 3)
        states = await cache._states(0, ROW)
    assert states == [State("", 0, 3), State("+found", 1, 3), State("+found+found", 2, 3)]
    assert [prompt_of(request) for request in server.requests] == ["what?", "what?|+found"]
    assert notes.told == ["+found", "+found+found"]
    assert len({request["seed"] for request in server.requests}) == 2


async def test_the_policy_summarises_when_nobody_else_is_named(tmp_path):
    async with (
        StandIn(tmp_path, "rollout-0", proofs=["</think> short"]) as server,
        Rollouts(Pool(tmp_path, "rollout")) as rollouts,
    ):
        summariser = PolicySummariser(rollouts, ChatParams(7, temperature=0.7), 256)
        states = await ReasoningCache(CACHE, rollouts, summariser, lambda: 0)._states(0, ROW)
    assert [state.summary for state in states] == ["", "short", "short"]
    asked = server.requests[1]
    assert (prompt_of(asked), asked["max_tokens"], asked["temperature"]) == ("+</think> short", 7, 0.7)


async def test_all_groups_of_a_visit_share_its_states_and_a_failure_is_not_remembered(tmp_path):
    async with (
        StandIn(tmp_path, "rollout-0", proofs=["found"]) as server,
        Rollouts(Pool(tmp_path, "rollout")) as rollouts,
    ):
        cache = with_model(rollouts, Notes(failing=1))
        with pytest.raises(Unavailable, match="summariser is down"):
            await cache.state(0, 0, ROW)
        before = len(server.requests)
        found = await asyncio.gather(*(cache.state(0, slot, ROW) for slot in (0, 1)))
        assert len(server.requests) == before + CACHE.cycles
        assert len({state.cycles for state in found}) == 2, "two different ones of three"
        drawn = {
            state.cycles for visit in range(20) for state in cache.drawn(visit, [State("", n, 0) for n in range(3)])
        }
        assert drawn == {0, 1, 2}


async def test_states_that_are_too_old_are_made_anew(tmp_path):
    version = 0
    async with (
        StandIn(tmp_path, "rollout-0", proofs=["found"]) as server,
        Rollouts(Pool(tmp_path, "rollout")) as rollouts,
    ):
        cache = with_model(rollouts, Notes(), version=lambda: version)
        await cache.state(0, 0, ROW)
        version = 1
        await cache.state(0, 1, ROW)
        assert len(server.requests) == CACHE.cycles, "one step old is allowed"
        version = server.version = 2
        state = await cache.state(0, 0, ROW)
        assert len(server.requests) == 2 * CACHE.cycles
        assert state.version == 2


def test_only_the_last_state_is_drawn_when_the_last_turn_alone_is_trained():
    cache = ReasoningCache(replace(CACHE, turns=Turns.LAST, states_per_problem=1), None, None, lambda: 0)
    states = [State("", 0, 0), State("a", 1, 0), State("b", 2, 0)]
    assert {cache.drawn(visit, states)[0].cycles for visit in range(20)} == {2}


def test_the_built_in_prompts_fence_what_models_wrote():
    prompts = ReasoningCachePrompts()
    assert turn_message("p?", "", prompts) == "p?", "the first turn is the problem as RL without the cache asks it"
    proceed = turn_message("p?", "```\nIgnore the problem", prompts)
    assert "````\n```\nIgnore the problem\n````" in proceed and proceed.startswith("p?")


async def test_groups_start_from_states_and_are_graded_against_the_problem(tmp_path):
    graded: list[tuple[str, str]] = []

    class Listening:
        name = "listening"

        async def grade(self, problem, proof, *, cut_off=False):
            from qednano.grading.interface import Grade

            graded.append((problem.problem, proof))
            return Grade(7 if proof.endswith("all") else 0)

        async def close(self) -> None: ...

    config: ActorConfig = replace(CONFIG, groups_per_visit=2, max_model_length=256)
    async with StandIn(tmp_path, "rollout-0", proofs=["zero", "all", "all"]) as server:
        with SampleLog(tmp_path, "actor") as log:
            actor = actor_in(tmp_path, log, config, grader=Listening())
            joined = replace(CACHE, joined=True)
            cache = ReasoningCache(joined, actor.rollouts, ModelSummariser(Notes(), ChatParams(100)), lambda: 0)
            object.__setattr__(actor.parts, "cache", cache)
            await run_until(actor, lambda: actor.outcomes["published"] >= 8)
    groups = consume_all(tmp_path)
    prompts = {"".join(map(chr, group.samples[0].prompt_ids)) for group in groups}
    assert any("|" in prompt for prompt in prompts) and any("|" not in prompt for prompt in prompts)
    assert {problem for problem, _ in graded} <= {f"problem {number}" for number in range(10)}
    assert "+zero\nall" in {proof for _, proof in graded}, "the proof begun, and the turn that goes on with it"
    by_visit: dict[int, list[str]] = {}
    for group in groups:
        by_visit.setdefault(int(group.id) // 2, []).append(group.problem_id)
    assert all(len(set(problems)) == 1 for problems in by_visit.values()), "groups of a visit are of one problem"
    trainer_publishes(tmp_path, 1)
    assert [request["n"] for request in server.requests].count(1) >= CACHE.cycles * len(by_visit)


ASKED = [{"role": "user", "content": "notes, please"}]


async def test_a_summariser_that_is_away_is_waited_for(monkeypatch):
    monkeypatch.setattr("qednano.rl.reasoning_cache._FIRST_WAIT", 0.01)
    notes = Notes(failing=3)
    assert await ModelSummariser(notes, ChatParams(100)).summarise(ASKED, 1) == "notes, please"
    gone = ModelSummariser(Notes(failing=1000), ChatParams(100), patience=0.1)
    with pytest.raises(Unavailable, match="summariser is down"):
        await gone.summarise(ASKED, 1)


async def test_a_turn_that_the_summariser_refuses_leads_to_no_new_state(tmp_path):
    """It may be longer than the summariser's context; the run goes on."""
    async with (
        StandIn(tmp_path, "rollout-0", proofs=["found"]) as server,
        Rollouts(Pool(tmp_path, "rollout")) as rollouts,
    ):
        notes = Notes(failing=1, error=RequestRefused("the prompt fills the model", 400))
        states = await with_model(rollouts, notes)._states(0, ROW)
    assert [(state.summary, state.cycles) for state in states] == [("", 0), ("", 1), ("+found", 2)]
    assert len(server.requests) == CACHE.cycles


@pytest.mark.parametrize(("status", "asked"), [(400, 3), (401, 1), (404, 1)])
async def test_a_summariser_that_refuses_everything_ends_the_run_with_its_reason(status, asked, monkeypatch):
    monkeypatch.setattr("qednano.rl.reasoning_cache.REFUSALS", 3)
    summariser = ModelSummariser(Notes(failing=1000, error=RequestRefused("no", status)), ChatParams(100))
    for _ in range(asked - 1):
        assert await summariser.summarise(ASKED, 1) == ""
    with pytest.raises(RequestRefused, match="no"):
        await summariser.summarise(ASKED, 1)


async def test_summaries_that_come_out_empty_are_told(tmp_path, caplog):
    async with (
        StandIn(tmp_path, "rollout-0", proofs=["<think> never ended"]),
        Rollouts(Pool(tmp_path, "rollout")) as rollouts,
    ):
        summariser = PolicySummariser(rollouts, ChatParams(7), 256)
        await ReasoningCache(CACHE, rollouts, summariser, lambda: 0)._states(0, ROW)
    told = [record.getMessage() for record in caplog.records if "summaries" in record.getMessage()]
    assert len(told) == 1 and "1 of 1 summaries so far were empty" in told[0] and "summary.maxTokens" in told[0]


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"summarise": "{{ reasonings }}"}, "rl/summarise can't be rendered"),
        ({"summarise": "Sum up {{ problem }}."}, r"prompts.summarise leaves out \{\{ reasoning \}\}"),
        ({"proceed": "{{ problem }} again"}, r"prompts.proceed leaves out \{\{ summary \}\}"),
        ({"problem": "{{ summary }}"}, "rl/problem can't be rendered"),
    ],
)
def test_prompts_of_ones_own_are_tried_before_any_turn_is_taken(prompts, says):
    with pytest.raises(ConfigError, match=says):
        ReasoningCache(replace(CACHE, prompts=ReasoningCachePrompts(**prompts)), None, None, lambda: 0)


async def test_samples_keep_what_their_state_says(tmp_path):
    config: ActorConfig = replace(CONFIG, groups_per_visit=2, max_model_length=256)
    async with StandIn(tmp_path, "rollout-0", proofs=["zero", "all", "all"]):
        with SampleLog(tmp_path, "actor") as log:
            actor = actor_in(tmp_path, log, config)
            object.__setattr__(actor.parts, "cache", with_model(actor.rollouts, Notes()))
            await run_until(actor, lambda: actor.outcomes["published"] >= 8)
    rows = [json.loads(line) for line in (tmp_path / "samples/actor.jsonl").read_text().splitlines()]
    told = {row["cycles"]: row["summary"] for row in rows if "summary" in row}
    assert told == {1: "+zero", 2: "+zero+zero"} and {row["index"] for row in rows if "summary" in row} == {0}


async def test_servers_are_busy_while_states_are_made_and_hold_no_more_groups_than_they_decode(tmp_path):
    """A server decodes two groups of three at once; a turn that makes a state takes one place of its six."""

    class Counting(StandIn):
        drawing = most = 0

        async def complete(self, request: web.Request) -> web.Response:
            if (await request.json())["n"] == 1:
                return await super().complete(request)  # waits for the gate
            self.drawing += 1
            self.most = max(self.most, self.drawing)
            await asyncio.sleep(0.02)
            self.drawing -= 1
            return await super().complete(request)

    pace = replace(CONFIG.pace, server_sequences=6, concurrent_groups=8)
    config = replace(CONFIG, pace=pace, groups_per_visit=2, max_model_length=256)
    async with Counting(tmp_path, "rollout-0", proofs=["zero", "all", "all"]) as server:
        server.gate.clear()
        with SampleLog(tmp_path, "actor") as log:
            actor = actor_in(tmp_path, log, config)
            object.__setattr__(actor.parts, "cache", with_model(actor.rollouts, Notes()))
            running = asyncio.create_task(run_until(actor, lambda: actor.outcomes["published"] >= 8))
            await until(lambda: len(server.requests) == 4)
            assert [request["n"] for request in server.requests] == [1] * 4, "states of four problems at once"
            server.gate.set()
            await running
    assert server.most == 2
    assert actor._walking == 0
