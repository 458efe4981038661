"""New weights on their way to a busy rollout server: how soon they are visible, what breaks, what is lost meanwhile.

A real vLLM server of the tiny model is kept full by the actor's own client. Each time the answers of one optimizer
step are there (32 groups of 8, as in examples/tiny) new weights are published, as the trainer does. Told are the
seconds from LATEST to the pool's record of the new version, requests that failed or had to move, and the share of
time in which generation stood still for weights.

    python -m bench.rl_weight_sync [--quick] [--threads N]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import report
from bench.jobs import Job, job
from qednano.errors import QedError
from qednano.llm.completions import SamplingParams
from qednano.rl import weights
from qednano.rl.pool import Pool
from qednano.rl.rollouts import Rollouts
from qednano.tiny import problems
from qednano.tiny.model import init

GROUPS, GROUP_SIZE, TOKENS = 32, 8, 45
BARS = {"visible_seconds": ("<=", 1.0), "failed_requests": ("<=", 0.0), "lost_share": ("<=", 0.02)}
PAUSE = "qednano_weight_pause_seconds_sum"


def spec(model: Path, threads: int) -> dict[str, Any]:
    """The RLRun whose server is measured."""
    return {
        "model": {"uri": str(model)},
        "dataset": {"uri": "/unused"},
        "algorithm": {"maxSteps": 1000, "groupSize": GROUP_SIZE, "problemsPerStep": GROUPS},
        "sampling": {"maxTokens": TOKENS},
        "rollout": {"maxModelLength": 160, "maxConcurrent": GROUPS * GROUP_SIZE, "threads": threads},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "trainer": {"sequenceLength": 256, "precision": "fp32"},
    }


def publish(run_dir: Path, model: Path, version: int) -> None:
    """The model's weights, each a little off, as version `version`."""
    import torch
    from safetensors.torch import load_file

    from qednano.training.model import write_model_folder

    torch.manual_seed(version)
    state = {
        name: value + 1e-3 * torch.randn_like(value)
        for name, value in load_file(model / "model.safetensors").items()
    }  # fmt: skip
    weights.publish(run_dir, version, lambda folder: write_model_folder(state, model, folder))


class Load:
    """Keeps the server full; counts groups, tokens and requests that failed."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts, self.groups, self.tokens, self.failed = rollouts, 0, 0, 0
        self.texts = [problem.text for problem in problems.generate(seed=1, count=500)]

    async def worker(self, number: int) -> None:
        """One group after another."""
        rng = random.Random(number)
        while True:
            prompt = await self.rollouts.tokenise(rng.choice(self.texts))
            sampling = SamplingParams(TOKENS, 1.0, 1.0, seed=rng.randrange(1 << 31))
            try:
                batch = await self.rollouts.complete(prompt.ids, sampling, GROUP_SIZE)
            except QedError as error:
                print(f"a request failed: {error}", file=sys.stderr)
                self.failed += 1
                continue
            self.groups += 1
            self.tokens += sum(len(choice.token_ids) for choice in batch.choices)


async def visible(pool: Pool, version: int, server: Job) -> float:
    """Seconds until the pool's server has the version."""
    began = time.perf_counter()
    while not any(record.version == version for record in pool.servers()):
        server.check()
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


async def window(load: Load, groups: int, server: Job) -> float:
    """Seconds until so many more groups are there."""
    began, upto = time.perf_counter(), load.groups + groups
    while load.groups < upto:
        server.check()
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


async def measure(run_dir: Path, model: Path, server: Job, updates: int) -> dict[str, float]:
    """The figures of so many updates, each after the answers of a step."""
    from qednano import metrics

    pool = Pool(run_dir, "rollout")
    publish(run_dir, model, 0)
    await visible(pool, 0, server)
    seen = []
    async with Rollouts(pool) as rollouts:
        load = Load(rollouts)
        workers = [asyncio.create_task(load.worker(number)) for number in range(GROUPS)]
        await window(load, GROUPS, server)
        still = await window(load, 2 * GROUPS, server) / 2
        before, tokens, began = server.metrics()[PAUSE], load.tokens, time.perf_counter()
        for version in range(1, updates + 1):
            await asyncio.to_thread(publish, run_dir, model, version)
            seen.append(await visible(pool, version, server))
            print(f"version {version} visible after {seen[-1]:.2f} s", file=sys.stderr)
            await window(load, GROUPS, server)
        spent = time.perf_counter() - began
        paused = server.metrics()[PAUSE] - before
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return {
        "updates": float(updates), "visible_seconds": statistics.median(seen), "visible_seconds_worst": max(seen),
        "failed_requests": float(load.failed), "moved_requests": metrics.MOVED_SAMPLES._value.get(),
        "pause_seconds": paused / updates, "seconds_per_step": spent / updates,
        "seconds_per_step_without_updates": still, "lost_share": paused / spent,
        "tokens_per_second": (load.tokens - tokens) / spent,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three updates")
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, run_dir = Path(folder) / "model", Path(folder) / "run"
        init(model)
        with job("serve", run_dir, spec(model, args.threads), {"model": model}, "rollout", args.threads) as server:
            figures = asyncio.run(measure(run_dir, model, server, 3 if args.quick else 10))
    return report("weights of the tiny model to a busy vLLM server", figures, BARS)


if __name__ == "__main__":
    sys.exit(main())
