"""Adaptive beside fixed scaffolds on the tiny task: proofs by vLLM, scores by the exact checker.

    python -m bench.eval_adaptive_tiny MODEL [--problems 120]

MODEL is a folder of the tiny task's weights, such as the artifact of its SFTRun. A model of a million parameters can
neither verify nor revise, so verdicts are the checker's, wrong for one proof in ten, and whoever asks for a revision
gets another fresh proof. What is reported is the share of problems answered rightly, and tokens a problem; no bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from bench.eval_adaptive import SHIPPED, Forgetful
from bench.figures import report
from qednano.api.scaffold import Scaffold as Spec
from qednano.data.schema import ProblemRow
from qednano.evals.lanes import Lanes
from qednano.evals.scaffolds import scaffold_of
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked, Bench, BranchFailed, Node, Sample
from qednano.grading.interface import FULL_SCORE
from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.llm.vllm import SERVED_NAME, VllmOptions, VllmProcess, free_port
from qednano.tiny.checker import check
from qednano.tiny.problems import generate

IF_RIGHT, IF_WRONG = 0.9, 0.1
VERDICT_TOKENS = 16  # about half a proof, as a verdict is of a proof at full size
FIXED = ("SinglePass", "VerifyRefine", "SelfCheck")  # those that need no other skill of the model
WORTHS = (16, 64, 192)


class Fresh:
    """The model behind vLLM, asked for the bare problem whatever the question is."""

    name = "tiny"

    def __init__(self, session: aiohttp.ClientSession, url: str, problems: Sequence[str]) -> None:
        self._session, self._url, self._problems = session, url, problems

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        problem = next(text for text in self._problems if text in messages[-1]["content"])
        body = {"model": SERVED_NAME, "messages": [{"role": "user", "content": problem}], "max_tokens": 96,
                "temperature": 1.0, "seed": params.seed % 2**31}  # fmt: skip
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            told = await answer.json()
        choice, usage = told["choices"][0], told["usage"]
        text = choice["message"]["content"]
        spent = usage["prompt_tokens"], usage["completion_tokens"]
        return ChatAnswer(text, choice["finish_reason"], *spent, model="tiny")


class Checked:
    """A verifier of known accuracy: the checker's verdict, turned round by lot."""

    name = "checker"

    def __init__(self, problems: Sequence[str]) -> None:
        self._problems = problems

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        prompt = messages[-1]["content"]
        nonce = prompt.split('"nonce": "', 1)[1][:32]
        problem = next(text for text in self._problems if text in prompt)
        proof = prompt.split(f"<<<PROOF {nonce}>>>\n", 1)[1].split("\n<<<END OF PROOF ", 1)[0]
        right = check(problem, proof).score == FULL_SCORE
        passed = random.Random(params.seed).random() < (IF_RIGHT if right else IF_WRONG)
        verdict = {"nonce": nonce, "assessment": "", "errors": [] if passed else ["?"], "score": 7 if passed else 3}
        return ChatAnswer(json.dumps(verdict), "stop", len(problem + proof) // 2, VERDICT_TOKENS, model="checker")


async def measure(spec: dict, cast: dict, problems: list[ProblemRow]) -> tuple[float, float]:
    """Share answered rightly, tokens a problem."""
    scaffold = scaffold_of(Spec.model_validate(spec))
    bench = Bench(cast, Lanes(32), Forgetful(), run_seed=1)  # type: ignore[arg-type]

    async def one(solve, problem: ProblemRow) -> tuple[bool, int]:
        sample = Sample(bench, "tiny", problem, 0)
        try:
            proof = (await solve(Node(sample))).proof.text
        except BranchFailed:
            proof = ""
        return check(problem.problem, proof).score == FULL_SCORE, sample.spent.tokens

    found: list[tuple[bool, int]] = []
    for start in range(0, len(problems), scaffold.cohort):
        cohort = problems[start : start + scaffold.cohort]
        solve = scaffold.begin(len(cohort))
        found += await asyncio.gather(*(one(solve, problem) for problem in cohort))
    return sum(right for right, _ in found) / len(found), sum(tokens for _, tokens in found) / len(found)


async def run(model: Path, count: int) -> dict[str, float]:
    held_out = generate(seed=11, count=count, fold="heldout", families=["linear"])
    rows = [ProblemRow(id=f"p{number}", problem=item.text) for number, item in enumerate(held_out)]
    texts = sorted((row.problem for row in rows), key=len, reverse=True)
    known = {"passIfRight": str(IF_RIGHT), "passIfWrong": str(IF_WRONG)}
    specs = {name: spec for name, spec in SHIPPED if name in FIXED}
    specs |= {f"Adaptive {worth}": {"type": "Adaptive", "adaptive": {"worth": worth} | known} for worth in WORTHS}
    engine = VllmProcess(VllmOptions(str(model), free_port(), 160, 32))
    figures: dict[str, float] = {}
    await engine.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        await engine.wait_ready(session)
        solver = Asked(Fresh(session, engine.url, texts), "tiny", ChatParams(96))
        verifier = Asked(Checked(texts), "checker", ChatParams(VERDICT_TOKENS))
        cast = {SOLVER: solver, SUMMARISER: solver, VERIFIER: verifier, JUDGE: solver}
        for name, spec in specs.items():
            score, tokens = await measure(spec, cast, rows)
            print(f"{name:14} score {score:6.1%}  {tokens:7,.0f} tokens a problem", flush=True)
            figures |= {f"{name}_score": score, f"{name}_tokens": tokens}
    await engine.stop()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--problems", type=int, default=120)
    asked = parser.parse_args()
    return report("eval_adaptive_tiny", asyncio.run(run(asked.model, asked.problems)), {})


if __name__ == "__main__":
    sys.exit(main())
