"""The reasoning cache: cycles of reasoning and summarising make states, from which the trained turns start.

A *state* is a problem with a summary of what was found; the first one is empty. In each cycle the policy takes a turn
from the newest state and a summariser makes the next state of it, so T cycles give T + 1 states (QED-Nano, arXiv
2604.04898). A visit to a problem draws some of them, and each gets a group of single turns.

States come from the current policy: they are made for each visit, and made anew once they are too old.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qednano import metrics
from qednano.api.rlrun import ReasoningCachePrompts, Turns
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError, Unavailable
from qednano.llm.chat import ChatModel, ChatParams
from qednano.llm.completions import SamplingParams
from qednano.llm.failures import RequestRefused
from qednano.llm.prompts import render
from qednano.llm.thinking import written_proof
from qednano.rl.generation import request_seed
from qednano.rl.rollouts import PATIENCE_SECONDS, Rollouts

log = logging.getLogger(__name__)

AREA = "rl"  # of the prompts
REMEMBERED = 256  # visits whose states are kept for groups that start later
REFUSALS = 64  # in a row after which a summariser is taken to refuse everything
SAY_EMPTY = 64  # empty summaries between two lines of the log about them
_FOR_ALL = frozenset({401, 403, 404})  # such a refusal is not about what was to be summarised
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0


@dataclass(frozen=True)
class State:
    """What a turn starts from: a summary (empty at first), how many cycles are behind it, and the oldest weights that
    had a part in it."""

    summary: str
    cycles: int
    version: int


class Summariser(Protocol):
    """Makes the summary of a turn."""

    async def summarise(self, messages: Sequence[dict[str, str]], seed: int) -> str:
        """The summary that the prompt asks for."""
        ...


class PolicySummariser:
    """The policy summarises what it thought itself."""

    def __init__(self, rollouts: Rollouts, params: ChatParams, max_model_length: int) -> None:
        self._rollouts, self._params, self._length = rollouts, params, max_model_length

    async def summarise(self, messages: Sequence[dict[str, str]], seed: int) -> str:
        """The policy's answer, without its thinking; empty when the prompt fills the model."""
        prompt = await self._rollouts.conversation(messages)
        space = min(self._params.max_tokens, self._length - len(prompt.ids))
        if space < 1:
            return ""
        params = self._params
        sampling = SamplingParams(space, params.temperature, params.top_p, seed, params.top_k)
        batch = await self._rollouts.complete(prompt.ids, sampling, 1)
        return written_proof(batch.choices[0].text, prompt.reasoning)


class ModelSummariser:
    """A second model or an endpoint summarises. While it does not answer it is waited for, up to `patience` seconds."""

    def __init__(self, model: ChatModel, params: ChatParams, patience: float = PATIENCE_SECONDS) -> None:
        self._model, self._params, self._patience = model, params, patience
        self._refused = 0  # in a row

    async def summarise(self, messages: Sequence[dict[str, str]], seed: int) -> str:
        """The model's answer, without its thinking; empty for what it refuses, such as a turn longer than its context.

        Raises RequestRefused when it refuses everything, Unavailable when it is gone for good.
        """
        began, wait = time.monotonic(), _FIRST_WAIT
        while True:
            try:
                answer = await self._model.chat(messages, self._params)
            except RequestRefused as error:
                self._refused += 1
                if error.status in _FOR_ALL or self._refused >= REFUSALS:
                    raise
                log.warning("%s does not summarise a turn: %s", self._model.name, error)
                return ""
            except Unavailable as error:
                if time.monotonic() - began + wait > self._patience:
                    raise
                log.warning("%s does not summarise now, it is asked again in %.0f s: %s", self._model.name, wait, error)
                await asyncio.sleep(wait)
                wait = min(_LONGEST_WAIT, 2 * wait)
            else:
                self._refused = 0
                return answer.text


@dataclass(frozen=True)
class CacheConfig:
    """The cache's part of an RLRun; `sampling` is that of the policy's turns, ages are in optimizer steps."""

    cycles: int
    states_per_problem: int
    turns: Turns
    joined: bool
    max_state_age: int
    prompts: ReasoningCachePrompts
    sampling: SamplingParams
    max_model_length: int
    seed: int


class ReasoningCache:
    """States by visit, made once for all groups of it."""

    def __init__(
        self, config: CacheConfig, rollouts: Rollouts, summariser: Summariser, version: Callable[[], int]
    ) -> None:
        check_prompts(config.prompts)
        self.config = config
        self._rollouts, self._summariser, self._version = rollouts, summariser, version
        self._visits: dict[int, asyncio.Task[list[State]]] = {}
        self._summaries = self._empty = 0

    async def made(self, visit: int, row: ProblemRow) -> None:
        """Wait until the visit's states are there. Raises what asking raises."""
        await asyncio.shield(self._states(visit, row))

    async def state(self, visit: int, slot: int, row: ProblemRow) -> State:
        """The state of the visit's group number `slot`, not older than it may be. Raises what asking raises."""
        while True:
            states = await asyncio.shield(self._states(visit, row))
            if not self._old(states):
                state = self.drawn(visit, states)[slot]
                metrics.STATE_AGE.observe(max(0, self._version() - state.version))
                return state
            metrics.STATES_TOO_OLD.inc()
            self._visits.pop(visit, None)

    def _states(self, visit: int, row: ProblemRow) -> asyncio.Task[list[State]]:
        task = self._visits.get(visit)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._visits[visit] = asyncio.create_task(self._chain(visit, row))
            for old in sorted(self._visits)[:-REMEMBERED]:
                if self._visits[old].done():
                    del self._visits[old]
        return task

    async def close(self) -> None:
        """Give up what is being made."""
        for task in self._visits.values():
            task.cancel()
        await asyncio.gather(*self._visits.values(), return_exceptions=True)

    def drawn(self, visit: int, states: Sequence[State]) -> list[State]:
        """The states of this visit's groups, a seeded choice without repetition."""
        if self.config.turns is Turns.LAST:
            return [states[-1]]
        rng = random.Random(f"{self.config.seed}/states/{visit}")
        return rng.sample(list(states), self.config.states_per_problem)

    def _old(self, states: Sequence[State]) -> bool:
        return any(self._version() - state.version > self.config.max_state_age for state in states if state.cycles)

    async def _chain(self, visit: int, row: ProblemRow) -> list[State]:
        """All states of one visit, one after another. A turn or summary that comes out empty ends in the state before.

        States after it are then equal to it.
        """
        states = [State("", 0, self._version())]
        for cycle in range(1, self.config.cycles + 1):
            states.append(await self._next(visit, cycle, row, states[-1]))
        return states

    async def _next(self, visit: int, cycle: int, row: ProblemRow, state: State) -> State:
        config = self.config
        prompt = await self._rollouts.tokenise(self.message(row, state))
        space = min(config.sampling.max_tokens, config.max_model_length - len(prompt.ids))
        if space < 1:
            return State(state.summary, cycle, state.version if state.cycles else self._version())
        seed = request_seed(config.seed, "turn", visit, cycle)
        sampling = SamplingParams(space, config.sampling.temperature, config.sampling.top_p, seed)
        batch = await self._rollouts.complete(prompt.ids, sampling, 1)
        metrics.STATE_TOKENS.inc(len(batch.choices[0].token_ids))
        asked = render(
            f"{AREA}/summarise",
            config.prompts.summarise,
            problem=row.problem,
            summary=state.summary,
            reasoning=batch.choices[0].text,
        )
        summary = (await self._summariser.summarise([{"role": "user", "content": asked}], seed)).strip()
        self._count(summary)
        oldest = min(batch.versions[0])
        version = min(state.version, oldest) if state.cycles else oldest
        return State(summary or state.summary, cycle, version)

    def _count(self, summary: str) -> None:
        self._summaries += 1
        self._empty += not summary
        if not summary and self._empty % SAY_EMPTY == 1:
            log.warning(
                "%d of %d summaries so far were empty, so their turns led to no new state: thinking that outlasts "
                "reasoningCache.summary.maxTokens leaves none",
                self._empty,
                self._summaries,
            )

    def message(self, row: ProblemRow, state: State) -> str:
        """What the policy is told at the start of a turn."""
        return turn_message(row.problem, state.summary, self.config.prompts)

    def graded_text(self, state: State, turn: str) -> str:
        """What the grader sees of a turn."""
        return joined(state.summary, turn) if self.config.joined else turn


def turn_message(problem: str, summary: str, prompts: ReasoningCachePrompts) -> str:
    """The prompt of a turn: the problem alone at first, later with the summary."""
    if not summary:
        return render(f"{AREA}/problem", prompts.problem, problem=problem)
    return render(f"{AREA}/proceed", prompts.proceed, problem=problem, summary=summary)


def check_prompts(prompts: ReasoningCachePrompts) -> None:
    """Raise ConfigError, before any turn is taken, for a prompt that can't be rendered or leaves out what it is for."""
    values = {"problem": "(problem)", "summary": "(summary)", "reasoning": "(reasoning)"}
    asked = {
        "problem": (prompts.problem, ("problem",), "problem"),
        "proceed": (prompts.proceed, ("problem", "summary"), "summary"),
        "summarise": (prompts.summarise, ("problem", "summary", "reasoning"), "reasoning"),
    }
    for name, (override, known, needed) in asked.items():
        text = render(f"{AREA}/{name}", override, **{key: values[key] for key in known})
        if values[needed] not in text:
            raise ConfigError(
                f"spec.reasoningCache.prompts.{name} leaves out {{{{ {needed} }}}}, without which it says nothing"
            )


def joined(begun: str, turn: str) -> str:
    """A proof begun and what goes on from it."""
    return f"{begun}\n{turn}".strip()
