from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qednano.api.rlrun import Overlong
from qednano.artifacts import check_fence, claim_attempt
from qednano.data.schema import ProblemRow
from qednano.errors import DataError, Fenced, Unavailable
from qednano.grading.health import GraderHealth
from qednano.grading.interface import Grade
from qednano.llm.completions import Completion, Prompt, SamplingParams
from qednano.progress import Reporter
from qednano.rl import weights
from qednano.rl.actor import Actor, ActorConfig, Parts
from qednano.rl.backpressure import Ahead, Pace, room
from qednano.rl.curriculum import Curriculum, PassRates, group_id
from qednano.rl.generation import Drawn, request_seed
from qednano.rl.groups import GroupResult, barren, group_outcome, judge, window_metrics
from qednano.rl.pool import Pool
from qednano.rl.rewards import RewardShaping
from qednano.rl.rollouts import Rollouts
from qednano.rl.sample_log import SampleLog
from qednano.rl.stream import FileStream
from tests.rl.servers import StandIn

PACE = Pace(group_size=3, problems_per_step=4, max_staleness=1, concurrent_groups=8, server_sequences=64)
CONFIG = ActorConfig(
    pace=PACE,
    max_steps=3,
    drop_zero_variance=True,
    shaping=RewardShaping(),
    sampling=SamplingParams(max_tokens=20),
    max_model_length=64,
)
ROWS = [ProblemRow(id=f"p{number}", problem=f"problem {number}") for number in range(10)]


class ByName:
    """Grades the stand-ins' proofs by their name; `broken` ones get no grade."""

    name = "by-name"

    def __init__(self) -> None:
        self.asked = 0

    async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
        self.asked += 1
        if proof == "broken":
            return Grade(None, "the grader is down")
        return Grade({"zero": 0, "some": 3, "all": 7}[proof], proof)

    async def close(self) -> None:
        pass


class Running(Actor):
    """An actor that opens its own connections."""

    async def run(self, stopping) -> None:
        async with self.rollouts:
            await super().run(stopping)


def actor_in(
    folder: Path, log: SampleLog, config: ActorConfig = CONFIG, grader=None, patience=900.0, **parts
) -> Running:
    reporter = Reporter()
    health = parts.pop("health", None) or GraderHealth(100)
    curriculum = parts.pop("curriculum", None) or Curriculum(ROWS, seed=1)
    stream = parts.pop("stream", None) or FileStream(folder)
    rollouts = Rollouts(
        Pool(folder, "rollout"),
        lambda seconds: reporter.update(message=f"waiting {seconds}"),
        patience=patience,
        spent=parts.pop("spent", lambda *_: None),
    )
    return Running(
        config, Parts(curriculum, grader or ByName(), health, stream, log, **parts), rollouts, folder, reporter
    )


async def until(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def run_until(actor: Actor, condition) -> None:
    stop = False
    task = asyncio.create_task(actor.run(lambda: stop))
    waiting = asyncio.create_task(until(condition))
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        await waiting
    finally:
        stop = True
        waiting.cancel()
        await task


def consume_all(folder: Path) -> list:
    stream, position, groups = FileStream(folder), None, []
    while (taken := stream.consume(position, threading.Event(), 0)) is not None:
        position, group = taken
        groups.append(group)
    return groups


def trainer_publishes(folder: Path, version: int) -> None:
    weights.publish(folder, version, lambda path: (path / "x").write_text("x"))


async def test_groups_hold_the_servers_tokens_and_rewards_in_sevenths(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", version=0):
            actor = actor_in(tmp_path, log)
            await run_until(actor, lambda: actor.outcomes["published"] >= 4)
    groups = consume_all(tmp_path)
    assert len({group.id for group in groups}) == len(groups) >= 4
    curriculum = Curriculum(ROWS, seed=1)
    for group in groups:
        row = curriculum.problem(int(group.id))
        assert group.problem_id == row.id
        assert [sample.reward for sample in group.samples] == [0, 3 / 7, 1]
        assert [sample.completion_ids for sample in group.samples] == [[1, 2], [2, 2], [3, 2]]
        assert all(sample.logprobs == [-0.5, -0.25] for sample in group.samples)
        assert all(sample.prompt_ids == [ord(letter) for letter in row.problem] for sample in group.samples)
    rows = [json.loads(line) for line in (tmp_path / "samples/actor.jsonl").read_text().splitlines()]
    assert {(row["score"], row["outcome"]) for row in rows} == {(0, "published"), (3, "published"), (7, "published")}


async def test_the_actor_waits_for_a_trainer_that_is_behind(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0") as server:
            actor = actor_in(tmp_path, log)
            most = PACE.problems_per_step * (PACE.max_staleness + 1)
            await run_until(actor, lambda: actor.outcomes["published"] >= most)
            assert actor.outcomes["published"] == len(server.requests) == most
            consume_all(tmp_path)
            trainer_publishes(tmp_path, 1)
            server.version = 1
            await run_until(actor_in(tmp_path, log), lambda: len(server.requests) == 2 * most)


async def test_a_restarted_actor_draws_what_was_not_decided(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["zero", "all"]) as server:
            actor = actor_in(tmp_path, log)
            await run_until(actor, lambda: actor.outcomes["published"] >= 3)
            before = [group.id for group in consume_all(tmp_path)]
            trainer_publishes(tmp_path, 1)
            server.version = 1
            again = actor_in(tmp_path, log)
            gaps = {group_id(number) for number in range(int(max(before)) + 1)} - set(before)
            await run_until(again, lambda: again.outcomes["published"] >= 1 and gaps <= again.stream.decided())
    after = [group.id for group in consume_all(tmp_path)]
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) > len(before)
    assert gaps <= set(after)


async def test_the_actor_ends_when_the_trainer_has_done_its_last_step(tmp_path):
    trainer_publishes(tmp_path, CONFIG.max_steps)
    with SampleLog(tmp_path, "actor") as log:
        actor = actor_in(tmp_path, log)
        await asyncio.wait_for(actor.run(lambda: False), 5)
    assert actor.finished()


async def test_groups_without_variance_are_replaced_by_others(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["all"]) as server:
            actor = actor_in(tmp_path, log)
            await run_until(actor, lambda: actor.outcomes["zero-variance"] >= 20)
            assert not consume_all(tmp_path)
            server.proofs = ["all", "zero"]
            await run_until(actor, lambda: actor.outcomes["published"] >= 4)


async def test_a_run_that_has_nothing_to_learn_from_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("qednano.rl.actor.REPORT_SECONDS", 0.0)
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["zero"]) as server:
            actor = actor_in(tmp_path, log)
            said = "each of the last 64 groups .* same reward .mean 0.00.*too hard for the model.*filter the dataset"
            await run_until(actor, lambda: re.search(said, actor._reporter.report().message))
            await run_until(actor, lambda: actor.outcomes["zero-variance"] >= 100)
            assert sum(bool(re.search(said, record.getMessage())) for record in caplog.records) == 1
            server.proofs = ["all", "zero"]
            await run_until(actor, lambda: actor.outcomes["published"] >= 1)
            assert re.search(r"\d+ published, \d+ zero-variance", actor._reporter.report().message)


@pytest.mark.parametrize(("reward", "cause"), [(0.0, "too hard"), (1.0, "too easy"), (0.5, "tells proofs")])
def test_what_teaches_nothing_has_a_likely_cause(reward, cause):
    kept = judge(batch("stop", "stop"), Prompt([1]), [Grade(7 * reward)] * 2, ["x"] * 2, RewardShaping())
    result = GroupResult("0", "p", "zero-variance", kept)
    assert cause in barren(window_metrics([result] * 3, 5), 3)
    one_published = [result, replace(result, outcome="published")]
    assert not barren(window_metrics(one_published, 5), 2) and not barren(window_metrics([], 5), 0)


async def test_a_group_that_grew_too_old_while_it_was_made_is_not_published(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", version=0) as server:
            actor = actor_in(tmp_path, log)
            server.gate.clear()
            task = asyncio.create_task(run_until(actor, lambda: actor.outcomes["stale"] >= 1))
            await until(lambda: bool(server.requests))
            trainer_publishes(tmp_path, 2)
            await until(lambda: actor._version == 2)
            server.gate.set()
            await task
    assert not consume_all(tmp_path) and actor.outcomes["published"] == 0


async def test_a_sample_without_a_grade_is_dropped_and_never_a_zero(tmp_path):
    grader = ByName()
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["broken", "some", "all"]):
            actor = actor_in(tmp_path, log, grader=grader)
            await run_until(actor, lambda: actor.outcomes["published"] >= 1)
    for group in consume_all(tmp_path):
        assert [sample.reward for sample in group.samples] == [3 / 7, 1]
    assert grader.asked >= 5, "the broken one was asked for three times"


async def test_a_grader_that_never_grades_ends_the_run_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("qednano.rl.actor.HOPELESS_GROUPS", 3)
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["broken"]):
            with pytest.raises(DataError, match="the grader is down"):
                await asyncio.wait_for(actor_in(tmp_path, log).run(lambda: False), 20)


async def test_a_request_moves_to_another_server_when_its_own_dies(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0") as dying, StandIn(tmp_path, "rollout-1") as other:
            await until(lambda: len(list((tmp_path / "pool").glob("*.json"))) == 2)
            dying.gate.clear()
            other.gate.clear()
            actor = actor_in(tmp_path, log, patience=0.5)
            task = asyncio.create_task(run_until(actor, lambda: actor.outcomes["published"] == 8))
            await until(lambda: dying.requests and other.requests)
            asked = time.monotonic()
            await until(lambda: time.monotonic() - asked > 0.5)  # answers may take longer than it
            dying.drop = True
            dying.gate.set()
            other.gate.set()
            await task
    assert len(consume_all(tmp_path)) == 8


async def test_without_servers_the_actor_says_so_and_gives_up_in_the_end(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        actor = actor_in(tmp_path, log, patience=1.5)
        with pytest.raises(Unavailable, match="no rollout server"):
            await asyncio.wait_for(actor.run(lambda: False), 10)
    assert "waiting" in actor._reporter.report().message


def batch(*reasons: str, start: int = 0) -> Drawn:
    choices = [Completion("text", reason, [1], [-1.0]) for reason in reasons]
    return Drawn(choices, start, start, 0.1, versions=[(start, start)] * len(choices))


@pytest.mark.parametrize(
    ("overlong", "rewards", "outcomes"),
    [
        (Overlong.NONE, [1.0, 1.0], ["kept", "kept"]),
        (Overlong.PENALTY, [1.0, 0.0], ["kept", "kept"]),
        (Overlong.FILTER, [1.0, 1.0], ["kept", "overlong"]),
    ],
)
def test_what_happens_to_samples_cut_off_by_the_limit(overlong, rewards, outcomes):
    judged = judge(batch("stop", "length"), Prompt([1]), [Grade(7), Grade(7)], ["a", "b"], RewardShaping(overlong))
    assert [item.sample.reward for item in judged] == rewards
    assert [item.outcome for item in judged] == outcomes


def test_outcomes_of_groups():
    def samples(*scores: int, start: int = 5) -> list:
        grades = [Grade(score) for score in scores]
        finished = batch(*["stop"] * len(scores), start=start)
        return [item.sample for item in judge(finished, Prompt([1]), grades, ["x"] * len(scores), RewardShaping())]

    assert group_outcome(samples(1, 2), 6, max_staleness=1) == "published"
    assert group_outcome(samples(1, 2), 7, max_staleness=1) == "stale"
    assert group_outcome(samples(2, 2), 5, max_staleness=1) == "zero-variance"
    assert group_outcome(samples(2, 2), 5, max_staleness=1, drop_zero_variance=False) == "published"
    assert group_outcome(samples(3), 5, max_staleness=1) == "too-few"


@pytest.mark.parametrize(
    ("in_flight", "queued", "held", "servers", "expected"),
    [
        (0, 0, 0, 1, 8),  # two steps' groups ahead, as maxStaleness is 1
        (0, 4, 4, 1, 0),
        (3, 2, 0, 1, 3),
        (8, 0, 0, 1, 0),
        (0, 9, 0, 1, 0),
    ],
)
def test_room_keeps_groups_fresh(in_flight, queued, held, servers, expected):
    assert room(Ahead(in_flight, queued, held, servers), PACE) == expected


def test_samples_are_no_staler_than_it_takes_to_keep_the_trainer_busy():
    lenient = replace(PACE, max_staleness=10)
    assert room(Ahead(0, 4, 4, 1), lenient) == 0, "the step under way and the next one are there"
    assert room(Ahead(0, 4, 4, 1), replace(lenient, concurrent_groups=20)) == 12, "unless more is asked for"


def test_room_is_what_servers_decode_at_once():
    small = replace(PACE, server_sequences=6, concurrent_groups=100, problems_per_step=50)
    assert room(Ahead(0, 0, 0, 1), small) == 2
    assert room(Ahead(0, 0, 0, 3), small) == 6


def test_groups_whose_state_is_being_made_leave_room_for_others():
    small = replace(PACE, server_sequences=6, concurrent_groups=10, problems_per_step=50)
    assert room(Ahead(2, 0, 0, 1), small) == 0
    assert room(Ahead(2, 0, 0, 1, walking=2), small) == 2
    assert room(Ahead(9, 0, 0, 1, walking=9), small) == 1, "no more than concurrentGroups in all"
    assert room(Ahead(9, 0, 0, 1, walking=7), small) == 0, "two are being drawn"


def test_on_policy_means_no_group_is_started_while_the_trainer_works():
    on_policy = replace(PACE, max_staleness=0)
    assert room(Ahead(0, 0, 4, 1), on_policy) == 0, "the trainer holds all four and works on version 1"
    assert room(Ahead(0, 0, 0, 1), on_policy) == 4


def test_weights_that_a_server_has_yet_to_load_count_as_staleness():
    assert room(Ahead(0, 0, 0, 1, lag=1), PACE) == 4, "a second step's groups would be two steps old"
    assert room(Ahead(0, 0, 0, 1, lag=1), replace(PACE, max_staleness=0)) == 0
    assert room(Ahead(0, 0, 0, 1, lag=7), PACE) == 0


async def test_no_wave_is_wasted_on_a_server_that_has_not_loaded_the_newest_weights(tmp_path):
    on_policy = replace(CONFIG, pace=replace(PACE, max_staleness=0))
    trainer_publishes(tmp_path, 1)
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", version=0) as server:
            actor = actor_in(tmp_path, log, on_policy)
            running = asyncio.create_task(run_until(actor, lambda: actor.outcomes["published"] >= 4))
            await until(lambda: actor._version == 1)
            await asyncio.sleep(0.3)  # some passes of its loop
            assert not server.requests
            server.version = 1
            await running
    assert actor.outcomes["stale"] == 0


async def test_requests_are_seeded_by_their_group(tmp_path):
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0") as server:
            actor = actor_in(tmp_path, log)
            await run_until(actor, lambda: actor.outcomes["published"] >= 4)
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds)) == len(seeds)
    assert set(seeds) >= {request_seed(0, "group", number) for number in range(4)}


async def test_an_actor_whose_successor_has_begun_publishes_nothing(tmp_path):
    first = claim_attempt(tmp_path / "actor")
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0"):
            actor = actor_in(tmp_path, log)
            actor._fence = lambda: check_fence(tmp_path / "actor", first)
            claim_attempt(tmp_path / "actor")
            with pytest.raises(Fenced):
                await asyncio.wait_for(actor.run(lambda: False), 10)
    assert consume_all(tmp_path) == []


async def test_a_grader_that_fails_too_often_pauses_the_run_and_it_goes_on_by_itself(tmp_path):
    said = []
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["broken", "some", "all"]) as server:
            health = GraderHealth(20, said=said.append, first_pause=0.05, longest_pause=0.05)
            actor = actor_in(tmp_path, log, health=health)
            server.proofs = ["broken"]
            running = asyncio.create_task(run_until(actor, lambda: actor.outcomes["published"] >= 2))
            await until(lambda: bool(said), 20)
            published = actor.outcomes["published"]
            assert "the grader is down" in said[0] and published == 0
            server.proofs = ["zero", "some", "all"]
            await running
    assert said[-1] == "", "it says that it goes on"
    for group in consume_all(tmp_path):
        assert 0 not in [sample.reward for sample in group.samples if sample.completion_ids == [2, 2]]


async def test_rows_have_what_the_grader_told_and_texts_that_no_file_can_hold(tmp_path):
    class Telling(ByName):
        async def grade(self, problem: ProblemRow, proof: str, *, cut_off: bool = False) -> Grade:
            if proof.startswith("half"):
                return Grade(1, "a start", {"votes": [1, 1]})
            return await super().grade(problem, proof, cut_off=cut_off)

    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0", proofs=["half \ud835", "some", "all"]):
            actor = actor_in(tmp_path, log, grader=Telling())
            await run_until(actor, lambda: actor.outcomes["published"] >= 1)
    row = json.loads((tmp_path / "samples/actor.jsonl").read_text().splitlines()[0])
    assert (row["proof"], row["details"]) == ("half ?", {"votes": [1, 1]})


async def test_the_pass_rate_decides_what_is_drawn_and_is_kept(tmp_path):
    rates = PassRates({row.id: 0.0 for row in ROWS[1:]}, tmp_path / "rates.json")
    curriculum = Curriculum(ROWS, 1, rates, least=0.01)
    with SampleLog(tmp_path, "actor") as log:
        async with StandIn(tmp_path, "rollout-0"):
            actor = actor_in(tmp_path, log, curriculum=curriculum)
            await run_until(actor, lambda: actor.outcomes["published"] >= 4)
    groups = consume_all(tmp_path)
    assert {group.problem_id for group in groups} == {"p0"}
    assert rates.get("p0") == pytest.approx(1 / 3), "one of three proofs has at least 6 points"
    numbers = {int(group.id) for group in groups}
    assert actor.stream.decided() >= {group_id(number) for number in range(max(numbers)) if number not in numbers}
    assert json.loads((tmp_path / "rates.json").read_text())["p0"] == rates.get("p0"), "to the last group"
