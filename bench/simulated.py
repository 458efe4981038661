"""A solver, a verifier and a judge of known accuracy, speaking the chat interface: no server, no waiting.

A proof's text says whether it is right, in a tag that only these models read. Each answer is drawn from the seed of
its request, so the same questions get the same answers in every run.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from qednano.llm.chat import ChatAnswer, ChatParams, Message

_PROOF = re.compile(r"\[\[proof of \S+: (?:right|wrong)\]\] by simulation [0-9.]+")
_TAG = re.compile(r"\[\[proof of (\S+): (right|wrong)\]\]")
_PROBLEM = re.compile(r"\[\[problem (\S+) rate ([0-9.]+)\]\]")
_NONCE = re.compile(r'"nonce": "([0-9a-f]{32})"')


@dataclass(frozen=True)
class World:
    """Accuracies and lengths. A verifier passes a right proof with chance `if_right`, a wrong one with `if_wrong`;
    a judge that has to choose between a right and a wrong proof takes the right one with chance `judge`.

    `alike`: correlation of the votes on one proof, given whether it is right. A proof has a chance of passing of its
    own, from a Beta distribution about those means: some wrong proofs fool the verifier again and again.
    """

    if_right: float = 0.85
    if_wrong: float = 0.15
    judge: float = 0.85
    alike: float = 0.0
    solve_tokens: int = 10_000
    verify_tokens: int = 4_000
    proof_tokens: int = 1_000


def problem_text(name: str, rate: float) -> str:
    """A problem that a fresh proof solves with chance `rate`."""
    return f"[[problem {name} rate {rate:.4f}]] Prove it."


def is_right(proof: str) -> bool:
    """Whether a proof is right."""
    return "right]]" in proof


def _answer(text: str, tokens: int, prompt: str, world: World, rng: random.Random) -> ChatAnswer:
    seen = 200 + world.proof_tokens * len(_TAG.findall(prompt))
    return ChatAnswer(text, "stop", seen, max(1, round(tokens * rng.lognormvariate(-0.08, 0.4))), model="simulated")


@dataclass(frozen=True)
class Solver:
    """Writes, mends, merges and plans. What a rewriting makes of proofs is a plain rule, see `_chance`."""

    world: World
    name: str = "simulated-solver"

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        prompt, rng = messages[-1]["content"], random.Random(params.seed)
        first = messages[0]["content"]
        if '"approaches": ["' in prompt:
            count = int(re.search(r"with (\d+) texts", prompt).group(1))  # type: ignore[union-attr]
            text = json.dumps({"approaches": [f"idea {number}" for number in range(count)]})
            return _answer(text, self.world.verify_tokens, prompt, self.world, rng)
        if '"actions"' in first:
            return _answer(_plan(messages), self.world.verify_tokens, "", self.world, rng)
        name, rate = _PROBLEM.search(prompt).groups()  # type: ignore[union-attr]
        if prompt.startswith("Somebody has worked"):
            return _answer(prompt[-400:], self.world.verify_tokens, prompt, self.world, rng)
        right = rng.random() < _chance(float(rate), [kind == "right" for _, kind in _TAG.findall(prompt)])
        text = f"[[proof of {name}: {'right' if right else 'wrong'}]] by simulation {rng.random():.9f}"
        return _answer(text, self.world.solve_tokens, prompt, self.world, rng)


def _chance(rate: float, seen: Sequence[bool]) -> float:
    """Of a right proof: afresh the problem's rate; from one proof the better half of what was missing, or 95 % of what
    was right; from several at least the rate, and with right ones among them more by their share."""
    if not seen:
        return rate
    if len(seen) == 1:
        return 0.95 if seen[0] else rate + 0.5 * rate * (1 - rate)
    share = sum(seen) / len(seen)
    return rate if not share else max(rate, 0.5 + 0.5 * share)


def _plan(messages: Sequence[Message]) -> str:
    """A sensible planner: three proofs, reviews of all, again for each that passed, then finish with the best."""
    scores: dict[str, list[int]] = {}
    names: list[str] = []
    for message in messages:
        if message["role"] == "user":
            names += re.findall(r"the proof is (p\d+)", message["content"])
            for name, score in re.findall(r"verify (p\d+): score (\d)", message["content"]):
                scores.setdefault(name, []).append(int(score))
    unseen = [name for name in names if name not in scores]
    passed = [name for name in scores if min(scores[name]) == 7]
    sure = [name for name in passed if len(scores[name]) >= 3]
    if sure:
        actions = [{"tool": "finish", "proof": sure[0]}]
    elif unseen or passed:
        actions = [{"tool": "verify", "proof": name} for name in unseen or passed]
    else:
        actions = [{"tool": "solve"}] * 3
    return json.dumps({"thought": "", "actions": actions})


@dataclass(frozen=True)
class Verifier:
    """Gives 7 for a pass and 3 for a failure."""

    world: World
    name: str = "simulated-verifier"

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        prompt, rng = messages[-1]["content"], random.Random(params.seed)
        score = 7 if rng.random() < self._chance(prompt) else 3
        errors = [] if score == 7 else ["a step is missing"]
        verdict = {"nonce": _nonce(prompt), "assessment": "seen", "errors": errors, "score": score}
        return _answer(json.dumps(verdict), self.world.verify_tokens, prompt, self.world, rng)

    def _chance(self, prompt: str) -> float:
        mean, alike = self.world.if_right if is_right(prompt) else self.world.if_wrong, self.world.alike
        if not alike:
            return mean
        proof = _PROOF.search(prompt)
        assert proof is not None
        weight = 1 / alike - 1
        return random.Random(proof.group()).betavariate(mean * weight, (1 - mean) * weight)


@dataclass(frozen=True)
class Judge:
    """Chooses of two, or names those that agree with what is true."""

    world: World
    name: str = "simulated-judge"

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        prompt, rng = messages[-1]["content"], random.Random(params.seed)
        kinds = [kind == "right" for _, kind in _TAG.findall(prompt)]
        if '"agree"' in prompt:
            kept = [
                number
                for number, right in enumerate(kinds, start=1)
                if rng.random() < (self.world.if_right if right else self.world.if_wrong)
            ]
            said = {"nonce": _nonce(prompt), "assessment": "", "agree": kept}
        else:
            first, second = kinds
            sure = first != second and rng.random() < self.world.judge
            better = (1 if first else 2) if sure else (2 if first else 1) if first != second else rng.choice((1, 2))
            said = {"nonce": _nonce(prompt), "assessment": "", "better": better}
        return _answer(json.dumps(said), self.world.verify_tokens, prompt, self.world, rng)


def _nonce(prompt: str) -> str:
    found = _NONCE.search(prompt)
    if found is None:
        raise ValueError("the question names no nonce")
    return found.group(1)
