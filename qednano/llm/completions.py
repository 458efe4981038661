"""Completions by token ids, with log-probs: what RL draws from its own vLLM servers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from qednano.llm.thinking import END, START

MODEL = "x-qednano-model"
VERSION_START, VERSION_END = "x-qednano-version-start", "x-qednano-version-end"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer. `logprobs[i]` belongs to `token_ids[i]`, under the distribution it was drawn from."""

    text: str
    finish_reason: str
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class CompletionBatch:
    """The n answers to one prompt, with the server's model, and its weight versions at start and end of the request."""

    choices: list[Completion]
    version_start: int
    version_end: int
    seconds: float
    model: str = ""


@dataclass(frozen=True)
class Prompt:
    """Token ids of a conversation, and whether the template has opened a reasoning block that the answer must close."""

    ids: list[int]
    reasoning: bool = False


def completion_body(model: str, prompt_ids: Sequence[int], sampling: SamplingParams, n: int) -> dict[str, Any]:
    """The body of a request for `n` completions of token ids (with vLLM's extensions)."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt_ids),
        "n": n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "logprobs": 0,
        "return_token_ids": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    return body


def tokenise_body(model: str, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The body of a request for the token ids of a conversation, ready for an answer."""
    return {
        "model": model,
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": True,
        "return_token_strs": True,
    }


def read_batch(answer: Any, headers: Mapping[str, str], n: int, started: float) -> CompletionBatch:
    """The completions of an answer. Raises KeyError, TypeError or ValueError when something is missing."""
    choices = [_completion(choice) for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]
    if len(choices) != n:
        raise ValueError(f"{len(choices)} choices instead of {n}")
    return CompletionBatch(
        choices=choices,
        version_start=int(headers.get(VERSION_START, 0)),
        version_end=int(headers.get(VERSION_END, 0)),
        seconds=time.monotonic() - started,
        model=unquote(headers.get(MODEL, "")),
    )


def read_prompt(answer: Any) -> Prompt:
    """The prompt of an answer of /tokenize."""
    end = "".join(answer["token_strs"][-16:])
    return Prompt([int(token) for token in answer["tokens"]], end.rfind(START) > end.rfind(END))


def _completion(choice: Any) -> Completion:
    token_ids = [int(token) for token in choice["token_ids"]]
    logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
    if len(token_ids) != len(logprobs):
        raise ValueError(f"{len(token_ids)} token ids but {len(logprobs)} log-probs")
    return Completion(str(choice["text"]), str(choice["finish_reason"]), token_ids, logprobs)
