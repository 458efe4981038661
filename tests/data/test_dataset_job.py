"""The job of a ProofDataset as a real process against a real HTTP server that misbehaves, and killed while it asks."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from aiohttp import web

from qednano import artifacts
from qednano.data.answers import Answers
from qednano.data.schema import read_rows
from tests.data.chat_server import TOKENS_IN, TOKENS_OUT, ChatServer, chat_server
from tests.llm.server import start

ROWS = 40
SAMPLES = 3
CHECKER = {"checker": {"name": "tiny-divisibility"}}


def endpoint(server: ChatServer, **more) -> dict:
    return {
        "endpoint": {
            "url": server.url,
            "model": "big",
            "timeoutSeconds": 1,
            "maxConcurrent": 16,
            "price": {"inputPerMillion": "1", "outputPerMillion": "10"},
            **more,
        }
    }


def spec(stages: list[dict], problems: int = ROWS, **split) -> dict:
    generator = {"name": "tiny-divisibility", "solutionsPerProblem": 0, "problems": problems}
    return {
        "sources": [{"name": "tiny", "generator": generator}],
        "stages": stages,
        "splits": [{"name": "train", **split}],
    }


def generating(server: ChatServer, **more) -> list[dict]:
    return [{"generate": {"teacher": endpoint(server), "samples": SAMPLES, "sampling": {"maxTokens": 64}, **more}}]


def run_job(run_dir: Path, wanted: dict) -> tuple[int, dict, str]:
    """The job to its end: exit code, last words, log."""
    process, words, log = start(run_dir, "dataset", "ProofDataset", wanted, {}, "dataset")
    code = process.wait(120)
    return code, json.loads(words.read_text()) if words.exists() else {}, log.read_text()


def test_killed_at_twenty_random_moments_every_answer_is_there_once_and_paid_once(tmp_path):
    rng = random.Random(7)
    with chat_server(delay=0.05) as server:
        wanted = spec(generating(server), problems=200)
        for kills in range(20):
            process, _, log = start(tmp_path, "dataset", "ProofDataset", wanted, {}, "dataset")
            before, deadline = server.requests, time.monotonic() + 60
            while server.requests == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.12))
            assert process.poll() is None, f"it ended before it could be killed, after {kills} kills: {log.read_text()}"
            process.send_signal(signal.SIGKILL)
            process.wait()
        parts = sorted((tmp_path / "answers" / "generate").glob("part-*.jsonl"))
        kept = Answers(tmp_path / "answers" / "generate").usage.answers
        assert 0 < kept < 600, "the kills must fall into the generation"
        server.settle()
        answered = len(server.answered)
        code, words, log = run_job(tmp_path, wanted)
        assert code == 0, log
    assert len(server.answered) - answered == 600 - kept, "what was kept is never asked again"
    lines = [json.loads(line) for path in (tmp_path / "answers" / "generate").glob("part-*.jsonl")
             for line in path.read_bytes().split(b"\n")[:-1]]  # fmt: skip
    assert len(parts) == 20 and len(lines) == len({line["key"] for line in lines}) == 600
    rows = list(read_rows(tmp_path / "artifact" / "train.parquet"))
    assert len(rows) == len({row.id for row in rows}) == 200
    assert {len(row.candidates) for row in rows} == {SAMPLES}
    assert all(
        candidate.proof and candidate.reasoning.startswith("thinking") for row in rows for candidate in row.candidates
    )
    cost = Decimal(600 * (TOKENS_IN + 10 * TOKENS_OUT)) / 1_000_000
    assert float(words["metrics"]["tokens/in"]) == 600 * TOKENS_IN
    assert float(words["metrics"]["tokens/out"]) == 600 * TOKENS_OUT
    assert float(words["metrics"]["cost"]) == pytest.approx(float(cost))


async def misbehave(number: int, request: web.Request) -> web.StreamResponse | None:
    """Every third request meets one of ten faults, in turn; verdicts on problems modulo 6 are always refused."""
    prompt = (await request.json())["messages"][0]["content"]
    if '"computational"' in prompt and "n = 6k" in prompt:
        return web.json_response({"error": {"message": "not this one"}}, status=400)
    if number % 3:
        return None
    fault = number // 3 % 10
    if fault == 0:
        return web.Response(text='{"choices": [{"mess', content_type="application/json")
    if fault == 1:
        return web.Response(status=429, headers={"Retry-After": "0.05"}, text="slow down")
    if fault == 2:
        return web.Response(status=500, text="oops")
    if fault == 3:
        await asyncio.sleep(2)  # longer than the client's patience
    if fault == 4:
        return web.Response(text="<html>gateway</html>", content_type="text/html")
    if fault == 5:
        return web.json_response({"choices": [], "usage": {}})
    if fault == 6:
        return web.Response(text="x" * (1 << 20), content_type="application/json")
    if fault == 7:
        request.transport.close()  # in the middle of the request
    if fault == 8:
        return web.json_response({"error": {"message": "prompt too long"}}, status=400)
    if fault == 9:
        return web.Response(status=503, text="")
    return None


def test_a_whole_build_against_a_server_that_misbehaves_loses_nothing_and_counts_nothing_twice(tmp_path):
    with chat_server(misbehave) as server:
        model = endpoint(server)
        short = {"sampling": {"maxTokens": 512}, "maxParkedPercent": 100}
        stages = [
            {"llmFilter": {"model": model, **short, "drop": ["Wrong"]}},
            {"rubrics": {"model": model, **short, "overwrite": True}},
            *generating(server, maxParkedPercent=100),
            {"grade": {"grader": CHECKER, "gradings": 2, "aggregate": "Min"}},
            {"select": {"minScore": "7"}},
            {"difficulty": {"model": model, **short, "samples": 2, "grader": CHECKER}},
            {"curriculum": {"order": "EasyFirst"}},
        ]
        code, words, log = run_job(tmp_path, spec(stages))
        assert code == 0, log
        asked, answered = server.requests, len(server.answered)
    assert answered < asked
    told = json.loads((tmp_path / "artifact" / "reports" / "stages.json").read_text())
    rows = ROWS
    for name in ("llmFilter", "rubrics", "generate", "grade", "select", "difficulty", "curriculum"):
        stage = told[name]
        dropped = sum(count for cause, count in stage["counts"].items() if cause.startswith("dropped "))
        assert (stage["rows_in"], stage["rows_in"] - stage["rows_out"]) == (rows, dropped), name
        rows = stage["rows_out"]
    final = list(read_rows(tmp_path / "artifact" / "train.parquet"))
    assert len(final) == rows > 0 and len({row.id for row in final}) == rows
    assert all(row.scores == [7.0] and row.rubric and row.difficulty > 1 for row in final)
    assert [row.pass_rate for row in final] == sorted((row.pass_rate for row in final), reverse=True)
    # What the report says was parked is what the files set apart hold.
    for name in ("llmFilter", "rubrics", "generate", "difficulty"):
        parked = sum(n for cause, n in told[name]["counts"].items() if cause.startswith("dropped parked"))
        path = tmp_path / "artifact" / "parked" / f"{name}.parquet"
        assert parked == (len(list(read_rows(path))) if path.exists() else 0), name
    # Every answer that arrived whole was paid once; only those cut off by a fault were not.
    assert float(words["metrics"]["tokens/out"]) % TOKENS_OUT == 0
    assert float(words["metrics"]["tokens/out"]) <= answered * TOKENS_OUT
    causes = Counter(line.split("is parked: ")[1].split(":")[0] for line in log.splitlines() if "is parked: " in line)
    assert max(causes.values(), default=0) <= 5, "one line for a cause and stage"
    assert told["llmFilter"]["counts"]["dropped parked: refused"] >= 1
    artifacts.verify(tmp_path / "artifact")


def test_a_budget_ends_a_run_well_with_what_there_is_or_says_what_was_spent(tmp_path):
    with chat_server() as server:
        limit = 20 * (TOKENS_IN + TOKENS_OUT)
        stages = generating(server, budget={"tokens": limit})
        code, words, log = run_job(tmp_path / "finish", spec(stages))
        assert code == 0, log
        assert float(words["metrics"]["tokens/in"]) + float(words["metrics"]["tokens/out"]) <= limit
        rows = list(read_rows(tmp_path / "finish" / "artifact" / "train.parquet"))
        assert 6 <= len(rows) < ROWS and sum(len(row.candidates) for row in rows) == 20
        stages = generating(server, budget={"tokens": limit, "whenSpent": "Fail"})
        code, words, _ = run_job(tmp_path / "fail", spec(stages))
    assert code == 65
    assert f"{limit} of {limit} tokens" in words["message"] and "raise it, or set budget.whenSpent" in words["message"]


def test_a_wrong_key_ends_the_run_at_once_with_the_server_s_words(tmp_path):
    async def refuse(number: int, request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no such key"}}, status=401)

    with chat_server(refuse) as server:
        code, words, _ = run_job(tmp_path, spec(generating(server)))
        assert server.requests <= 32
    assert code == 78 and "no such key" in words["message"]
