"""Async client of the OpenAI protocol: completions by token ids, and chat.

A request is tried again only when that can help: no connection, a time-out, an answer cut short or unreadable, or
a status that says "later" (408, 425, 429, 5xx). The wait has full jitter and obeys Retry-After. Anything else is
raised at once with the server's own words.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import unquote

import aiohttp

from qednano.errors import QedError, Unavailable

Answer = TypeVar("Answer")
Reader = Callable[[Any, Mapping[str, str]], Answer]

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
MODEL = "x-qednano-model"
VERSION_START, VERSION_END = "x-qednano-version-start", "x-qednano-version-end"


class RequestRefused(QedError):
    """The server understood the request and refused it; sending it again would not help."""

    reason = "RequestRefused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently: waits are uniform in 0..min(longest, first * 2^try), all in seconds."""

    tries: int = 5
    first: float = 0.5
    longest: float = 30.0
    longest_retry_after: float = 120.0

    def wait(self, failures: int, retry_after: float | None, rng: random.Random) -> float:
        """Seconds to wait after the `failures`-th failure (from 1)."""
        backoff = rng.uniform(0.0, min(self.longest, self.first * 2 ** (failures - 1)))
        if retry_after is None:
            return backoff
        return min(self.longest_retry_after, retry_after) + backoff / 10


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


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
class ChatAnswer:
    """One answer of a chat endpoint, with its price in tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Prompt:
    """Token ids of a conversation, and whether the template has opened a reasoning block that the answer must close."""

    ids: list[int]
    reasoning: bool = False


class _Retry(Exception):
    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class LlmClient:
    """A client of one endpoint (`base_url` without /v1); use as an async context manager."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "policy",
        api_key: str | None = None,
        timeout: float = 7200.0,
        connect_timeout: float = 10.0,
        max_concurrent: int = 256,
        retry: RetryPolicy | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._slots = asyncio.Semaphore(max_concurrent)
        self._retry = retry or RetryPolicy()
        self._session, self._owns_session = session, session is None
        self._rng = random.Random()  # jitter only: results don't depend on it

    async def __aenter__(self) -> LlmClient:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None

    async def complete(self, prompt_ids: Sequence[int], sampling: SamplingParams, n: int = 1) -> CompletionBatch:
        """Draw `n` completions of a prompt given as token ids; ids and log-probs come from the server.

        Raises RequestRefused, or Unavailable when all tries failed.
        """
        body: dict[str, Any] = {
            "model": self.model,
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
        started = time.monotonic()
        return await self._post("/v1/completions", body, lambda answer, headers: _batch(answer, headers, n, started))

    async def chat(
        self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams, extra: Mapping[str, Any] | None = None
    ) -> ChatAnswer:
        """One chat answer; `extra` holds fields that a particular server understands."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **(extra or {}),
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        return await self._post("/v1/chat/completions", body, lambda answer, _: _chat_answer(answer))

    async def tokenise(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """The conversation through the model's own chat template, ready for an answer (a vLLM extension)."""
        body = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": True,
            "return_token_strs": True,
        }
        return await self._post("/tokenize", body, lambda answer, _: _prompt(answer))

    async def _post(self, path: str, body: dict[str, Any], read: Reader[Answer]) -> Answer:
        url = self.base_url + path
        failures = 0
        async with self._slots:
            while True:
                try:
                    return await self._once(url, body, read)
                except _Retry as failure:
                    failures += 1
                    if failures >= self._retry.tries:
                        raise Unavailable(
                            f"{url} gave no usable answer in {failures} tries; the last: {failure}"
                        ) from None
                    await asyncio.sleep(self._retry.wait(failures, failure.after, self._rng))

    async def _once(self, url: str, body: dict[str, Any], read: Reader[Answer]) -> Answer:
        if self._session is None:
            raise RuntimeError("LlmClient is used outside `async with`")
        try:
            async with self._session.post(url, json=body, headers=self._headers, timeout=self._timeout) as response:
                if response.status != 200:
                    words = (await response.text(errors="replace"))[:500]
                    if response.status in RETRYABLE:
                        raise _Retry(f"HTTP {response.status}: {words}", _retry_after(response.headers))
                    raise RequestRefused(
                        f"{url} refused the request (HTTP {response.status}): {words}", response.status
                    )
                answer = await response.json(content_type=None)
        except TimeoutError:
            raise _Retry(f"no answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise _Retry(f"{type(error).__name__}: {error}") from error
        try:
            return read(answer, response.headers)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _Retry(f"the answer lacks what the protocol promises ({type(error).__name__}: {error})") from error


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date; None when absent or unreadable."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _batch(answer: Any, headers: Mapping[str, str], n: int, started: float) -> CompletionBatch:
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


def _prompt(answer: Any) -> Prompt:
    end = "".join(answer["token_strs"][-16:])
    return Prompt([int(token) for token in answer["tokens"]], end.rfind("<think>") > end.rfind("</think>"))


def written_proof(text: str, reasoning: bool) -> str:
    """What an answer states as its proof: all behind the last </think>; nothing while reasoning goes on."""
    if "</think>" in text:
        return text.rpartition("</think>")[2].strip()
    return "" if reasoning or "<think>" in text else text.strip()


def _completion(choice: Any) -> Completion:
    token_ids = [int(token) for token in choice["token_ids"]]
    logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
    if len(token_ids) != len(logprobs):
        raise ValueError(f"{len(token_ids)} token ids but {len(logprobs)} log-probs")
    return Completion(str(choice["text"]), str(choice["finish_reason"]), token_ids, logprobs)


def _chat_answer(answer: Any) -> ChatAnswer:
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    return ChatAnswer(
        text=choice["message"]["content"] or "",
        finish_reason=str(choice["finish_reason"]),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        completion_tokens=int(usage.get("completion_tokens", 0)),
    )
