"""RL with the reasoning cache learns lines of a proof that no first turn reaches; without it, it learns nothing.

Everything is the real thing but the language model: actor, cache, checker, stream, staleness, advantages and loss. The
policy here is one number for each line of the tiny task's proof, the log-odds that it is written rather than left out;
two lines fit a turn, and a proof has six. That a language model learns it too is for `bench.rl_reasoning_cache`.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import torch
from aiohttp import web
from torch import Tensor

from bench.begun_proofs import BegunProofs
from qednano.api.rlrun import ReasoningCachePrompts, Turns
from qednano.data.schema import ProblemRow
from qednano.llm.chat import ChatParams
from qednano.llm.completions import SamplingParams
from qednano.rl import weights
from qednano.rl.advantages import advantages
from qednano.rl.backpressure import Pace
from qednano.rl.curriculum import Curriculum
from qednano.rl.losses import LossConfig, LossInputs, token_losses
from qednano.rl.reasoning_cache import CacheConfig, ModelSummariser, ReasoningCache
from qednano.rl.sample_log import SampleLog
from qednano.rl.stream import FileStream, Group
from qednano.rl.trainer import Reader
from qednano.tiny import problems, teacher
from qednano.tiny.checker import FULL_SCORE, check
from tests.rl.servers import StandIn
from tests.rl.test_actor import CONFIG, actor_in
from tests.rl.test_reasoning_cache import Notes

SEEDS = (1, 2, 3)
STEPS, LINES, TURN_LINES, STALENESS = 30, 6, 2, 4
PACE = Pace(group_size=8, problems_per_step=8, max_staleness=STALENESS, concurrent_groups=16, server_sequences=256)
# log-odds of each line; the last stands for a proof that is at its end
BEGINNER = [8.0, 8.0, 0.0, 0.0, -0.5, 2.0, 0.0]
LIMITS = SamplingParams(max_tokens=20)
CACHE = CacheConfig(
    cycles=2,
    states_per_problem=2,
    turns=Turns.ALL,
    joined=True,
    max_state_age=STALENESS,
    prompts=ReasoningCachePrompts(proceed="{{ problem }}\n{{ summary }}", summarise="{{ summary }}\n{{ reasoning }}"),
    sampling=LIMITS,
    max_model_length=1000,
    seed=1,
)


def turn(policy: list[float], prompt: str, rng: random.Random) -> tuple[list[int], list[float], str]:
    """Tokens (2 * line, and 1 more where it is written), their log-probs, and the text of one turn."""
    problem, *begun = prompt.split("\n")
    whole = teacher.steps(problems.parse(problem))
    tokens, logprobs, written = [], [], []
    for line in range(whole.index(begun[-1]) + 1 if begun else 0, LINES + 1):
        writes = rng.random() < float(torch.sigmoid(torch.tensor(policy[line])))
        tokens.append(2 * line + writes)
        logprobs.append(float(logprob(torch.tensor(policy), torch.tensor([tokens[-1]]))))
        written += [whole[line]] if writes and line < LINES else []
        if len(written) == TURN_LINES:
            break
    return tokens, logprobs, "\n".join(written)


def logprob(policy: Tensor, tokens: Tensor) -> Tensor:
    """Of each token [N]."""
    return torch.nn.functional.logsigmoid(policy[tokens // 2] * (2 * (tokens % 2) - 1))


def score(policy: list[float], seed: int) -> float:
    """Mean (0 to 1) over held-out problems in three turns, the lines kept between."""
    rng, total = random.Random(seed), 0
    asked = list(problems.generate(seed=seed, count=100, fold="heldout", families=["linear"]))
    for problem in asked:
        proof = ""
        for _ in range(CACHE.cycles + 1):
            proof = f"{proof}\n{turn(policy, f'{problem.text}{chr(10)}{proof}'.strip(), rng)[2]}".strip()
        total += check(problem.text, proof).score
    return total / len(asked) / FULL_SCORE


class Server(StandIn):
    """A rollout server whose model is the policy above."""

    policy = BEGINNER

    async def complete(self, request: web.Request) -> web.Response:
        body, version = await request.json(), self.version
        self.requests.append(body)
        prompt, rng = "".join(map(chr, body["prompt"])), random.Random(body["seed"])
        choices = []
        for index in range(body["n"]):
            tokens, logprobs, text = turn(self.policy, prompt, rng)
            choices.append(
                {
                    "index": index, "text": text, "finish_reason": "stop", "token_ids": tokens,
                    "logprobs": {"token_logprobs": logprobs},
                }
            )  # fmt: skip
        stamps = {"x-qednano-version-start": str(version), "x-qednano-version-end": str(version)}
        return web.json_response({"choices": choices}, headers=stamps | {"x-qednano-model": ""})


def loss_of(groups: list[Group], policy: Tensor) -> Tensor:
    """REINFORCE with truncated importance weights, a mean over tokens."""
    samples = [sample for group in groups for sample in group.samples]
    scores = advantages([[sample.reward for sample in group.samples] for group in groups], "BatchScaled")
    each = [(sample, value) for sample, value in zip(samples, (a for group in scores for a in group), strict=True)]
    tokens = torch.tensor([token for sample in samples for token in sample.completion_ids])
    given = LossInputs(
        logprob(policy, tokens),
        torch.tensor([value for sample in samples for value in sample.logprobs]),
        torch.tensor([value for sample, value in each for _ in sample.completion_ids]),
        torch.tensor([index for index, sample in enumerate(samples) for _ in sample.completion_ids]),
        torch.zeros(len(tokens)),
    )
    return token_losses(given, LossConfig()).loss.mean()


async def trained(folder: Path, seed: int, cached: bool) -> tuple[list[float], int]:
    """The policy after all steps, and the largest staleness that was trained on."""
    policy = torch.tensor(BEGINNER, requires_grad=True)
    optimizer, reader, oldest = torch.optim.Adam([policy], 0.2), Reader(FileStream(folder), threading.Event()), 0
    config = replace(
        CONFIG, pace=PACE, max_steps=STEPS, drop_zero_variance=False, sampling=LIMITS, max_model_length=1000,
        seed=seed, groups_per_visit=CACHE.states_per_problem if cached else 1,
    )  # fmt: skip
    rows = [
        ProblemRow(id=f"p{n}", problem=problem.text)
        for n, problem in enumerate(problems.generate(seed=seed, count=100, families=["linear"]))
    ]
    async with Server(folder, "rollout-0") as server:
        with SampleLog(folder, "actor") as log:
            actor = actor_in(folder, log, config, BegunProofs(), curriculum=Curriculum(rows, seed=seed))
            if cached:
                cache = ReasoningCache(
                    replace(CACHE, seed=seed),
                    actor.rollouts,
                    ModelSummariser(Notes(), ChatParams(100)),
                    lambda: weights.latest_version(folder),
                )
                actor.parts = replace(actor.parts, cache=cache)
            acting = asyncio.create_task(actor.run(lambda: False))
            for step in range(STEPS):
                intake = await asyncio.to_thread(reader.gather, PACE.problems_per_step, step, STALENESS, 30)
                assert intake is not None
                oldest = max(oldest, *(step - group.version for group in intake.groups))
                optimizer.zero_grad()
                loss_of(intake.groups, policy).backward()
                optimizer.step()
                FileStream(folder).acknowledge(intake.position)
                weights.publish(folder, step + 1, lambda into: (into / "policy").write_text("there"))
                server.policy, server.version = policy.tolist(), step + 1
                server.announce()
            await acting
    shutil.rmtree(folder)
    return policy.tolist(), oldest


async def test_the_cache_beats_no_cache_where_proofs_do_not_fit_a_turn(tmp_path):
    scores: dict[str, list[float]] = {}
    for seed in SEEDS:
        scores.setdefault("before", []).append(score(BEGINNER, seed))
        for name, cached in (("without", False), ("with", True)):
            policy, oldest = await trained(tmp_path / f"{name}-{seed}", seed, cached)
            assert oldest <= STALENESS
            scores.setdefault(name, []).append(score(policy, seed))
    assert min(scores["with"]) > 0.75, scores
    assert all(own - other > 0.2 for own, other in zip(scores["with"], scores["without"], strict=True)), scores
