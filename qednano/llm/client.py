"""The one client of the OpenAI protocol: chat, responses, completions by token ids.

A request waits for its turn as no more than its arguments; the body is made when it is sent. It is sent again only when
that can help: no connection, a time-out, an answer cut short or unreadable, or a status that says "later" (408, 425,
429, 5xx). Anything else is raised at once with the server's own words. A cancelled request leaves nothing taken: no
place, no connection, no budget.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp

from qednano import metrics
from qednano.api.language import Price, Protocol
from qednano.errors import Unavailable
from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.llm.completions import (
    MODEL,
    VERSION_END,
    VERSION_START,
    Completion,
    CompletionBatch,
    Prompt,
    SamplingParams,
    completion_body,
    read_batch,
    read_prompt,
    tokenise_body,
)
from qednano.llm.cost import cost_of
from qednano.llm.failures import OVERLOAD, Cause, Failure, FailureLog, RequestRefused
from qednano.llm.pace import AdaptiveLimit, Rate
from qednano.llm.protocol import BODIES, CHAT, READERS, ROUTES, STREAMS, Dialect, Said
from qednano.llm.retry import RetryPolicy
from qednano.llm.thinking import written_proof
from qednano.llm.transport import RETRYABLE, Route, Stream, Timeouts, new_session

log = logging.getLogger(__name__)

__all__ = [
    "MODEL",
    "VERSION_END",
    "VERSION_START",
    "Completion",
    "CompletionBatch",
    "LlmClient",
    "Prompt",
    "RETRYABLE",
    "RequestRefused",
    "RetryPolicy",
    "SamplingParams",
    "written_proof",
]

Answer = TypeVar("Answer")
Reader = Callable[[Any, Mapping[str, str]], Answer]

_CHARACTERS_A_TOKEN = 3  # for the rate limit alone; what was really used is put right afterwards


@dataclass(frozen=True)
class _Request(Generic[Answer]):
    """What is asked, once it is sent: the body in a dialect and the stream that it may come back as; how it is read."""

    build: Callable[[Dialect], tuple[dict[str, Any], Stream | None]]
    read: Reader[Answer]


class _Meter:
    """The Prometheus series of one client."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._seconds = metrics.LLM_SECONDS.labels(role)
        self._prompt = metrics.LLM_PROMPT_TOKENS.labels(role)
        self._completion = metrics.LLM_COMPLETION_TOKENS.labels(role)
        self._cost = metrics.LLM_COST.labels(role)
        self._limit, self._in_flight = metrics.LLM_LIMIT.labels(role), metrics.LLM_IN_FLIGHT.labels(role)

    def changed(self, limit: int, in_flight: int) -> None:
        if limit:
            self._limit.inc(limit)
        if in_flight:
            self._in_flight.inc(in_flight)

    def ended(self, outcome: str, started: float | None) -> None:
        metrics.LLM_REQUESTS.labels(self._role, outcome).inc()
        if started is not None:
            self._seconds.observe(time.monotonic() - started)

    def retry(self, cause: Cause) -> None:
        metrics.LLM_RETRIES.labels(self._role, cause).inc()

    def answered(self, prompt_tokens: int, completion_tokens: int, cost: Decimal | None) -> None:
        self._prompt.inc(prompt_tokens)
        self._completion.inc(completion_tokens)
        if cost:
            self._cost.inc(float(cost))


class LlmClient:
    """A client of one model at one server; use as an async context manager. Itself a ChatModel.

    `base_url`: with or without the version (/v1). `role`: label of the metrics and name in the log: a role or a field
    of the spec. `stream_from`: answers that may be at least so many tokens long come as a stream, so that a
    connection that died is noticed after the idle timeout instead of the total one; None never streams.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "policy",
        api_key: str | None = None,
        protocol: Protocol = CHAT,
        role: str = "model",
        timeout: float = 7200.0,
        connect_timeout: float = 10.0,
        idle_timeout: float = 600.0,
        max_concurrent: int = 256,
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
        stream_from: int | None = None,
        price: Price | None = None,
        retry: RetryPolicy | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.name = self.model = model
        self.role = role
        self._protocol, self._stream_from, self._price = protocol, stream_from, price
        self.base_url = base = base_url.rstrip("/")
        versioned = base if _has_version(base) else f"{base}/v1"
        timeouts = Timeouts(connect_timeout, min(idle_timeout, timeout), timeout)
        self._chat_route = Route(versioned + ROUTES[protocol], api_key, timeouts)
        self._completions = Route(f"{versioned}/completions", api_key, timeouts)
        self._tokenise = Route(f"{base.removesuffix('/v1')}/tokenize", api_key, timeouts)
        self._dialect = Dialect()
        self._retry = retry or RetryPolicy()
        self._session, self._owns_session = session, session is None
        self._rng = random.Random()  # jitter only: results don't depend on it
        self._meter = _Meter(role)
        self._limit = AdaptiveLimit(max_concurrent, self._meter.changed)
        self._requests, self._tokens = Rate(requests_per_minute), Rate(tokens_per_minute)
        self._mean_tokens: float | None = None
        self._failures = FailureLog(role)
        self._pause_until = 0.0

    async def __aenter__(self) -> LlmClient:
        if self._session is None:
            self._session = new_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None

    def close(self) -> None:
        """Say what the log still owes and take back the gauges; for clients whose session is someone else's."""
        self._failures.close()
        self._limit.close()

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return self._limit.limit

    async def chat(self, messages: Sequence[Message], params: ChatParams, *, opened: bool = False) -> ChatAnswer:
        """One answer, its thinking apart. `opened`: the model's template begins every answer inside its thinking.

        Raises RequestRefused, or Unavailable when all tries failed.
        """
        started = time.monotonic()
        guess = self._guess(messages, params.max_tokens)
        said = await self._ask(self._chat_route, self._chat_request(messages, params, opened), guess)
        self._correct(guess, said.prompt_tokens, said.completion_tokens)
        return self._answer(said, time.monotonic() - started)

    async def complete(self, prompt_ids: Sequence[int], sampling: SamplingParams, n: int = 1) -> CompletionBatch:
        """Draw `n` completions of a prompt given as token ids; ids and log-probs come from the server.

        Raises RequestRefused, or Unavailable when all tries failed.
        """
        started = time.monotonic()
        request = _Request(
            lambda _: (completion_body(self.model, prompt_ids, sampling, n), None),
            lambda answer, headers: read_batch(answer, headers, n, started),
        )
        guess = float(len(prompt_ids) + n * sampling.max_tokens)
        batch = await self._ask(self._completions, request, guess)
        drawn = sum(len(choice.token_ids) for choice in batch.choices)
        self._tokens.correct(len(prompt_ids) + drawn - guess)
        self._meter.answered(len(prompt_ids), drawn, None)
        return batch

    async def tokenise(self, messages: Sequence[Message]) -> Prompt:
        """The conversation through the model's own chat template, ready for an answer (a vLLM extension)."""
        request = _Request(lambda _: (tokenise_body(self.model, messages), None), lambda answer, _: read_prompt(answer))
        async with self._limit.slot():
            return await self._tries(self._tokenise, request, 0.0)

    def _chat_request(self, messages: Sequence[Message], params: ChatParams, opened: bool) -> _Request[Said]:
        streamed = self._stream_from is not None and params.max_tokens >= self._stream_from
        write, reader = BODIES[self._protocol], READERS[self._protocol]

        def build(dialect: Dialect) -> tuple[dict[str, Any], Stream | None]:
            body = write(self.model, messages, params, dialect, streamed)
            return body, STREAMS[self._protocol]() if body.get("stream") else None

        return _Request(build, lambda answer, _: reader(answer, opened))

    # -- asking, with patience ----------------------------------------------------------------------------------------

    async def _ask(self, route: Route, request: _Request[Answer], guess: float) -> Answer:
        started, outcome = None, "cancelled"
        try:
            async with self._limit.slot():
                started = time.monotonic()
                answer = await self._tries(route, request, guess)
            outcome = "answered"
            return answer
        except RequestRefused:
            outcome = "refused"
            raise
        except Unavailable:
            outcome = "unavailable"
            raise
        finally:
            self._meter.ended(outcome, started)

    async def _tries(self, route: Route, request: _Request[Answer], guess: float) -> Answer:
        failures, limited, began = 0, 0, time.monotonic()
        while True:
            await self._may_send(guess)
            sent = time.monotonic()
            try:
                answer = await self._once(route, request)
            except Failure as failure:
                if failure.cause in OVERLOAD:
                    self._limit.slower(sent)
                if failure.cause is Cause.RATE_LIMITED and time.monotonic() - began < self._retry.patience:
                    limited += 1
                else:
                    failures += 1
                if failures >= self._retry.tries:
                    raise Unavailable(
                        f"{route.shown} gave no usable answer in {failures + limited} tries; the last: {failure}"
                    ) from None
                self._failures.note(failure)
                self._meter.retry(failure.cause)
                if failure.after is not None and failure.cause in OVERLOAD:  # it is said to all, not to this one
                    until = time.monotonic() + min(failure.after, self._retry.longest_retry_after)
                    self._pause_until = max(self._pause_until, until)
                await asyncio.sleep(self._retry.wait(failures + limited, failure.after, self._rng))
            else:
                self._limit.faster()
                return answer

    async def _may_send(self, guess: float) -> None:
        while (wait := self._pause_until - time.monotonic()) > 0:
            await asyncio.sleep(wait * (1 + self._rng.random() / 10))
        await self._requests.take(1)
        await self._tokens.take(guess)

    async def _once(self, route: Route, request: _Request[Answer]) -> Answer:
        """One try, in a simpler dialect if the server refuses this one; remembered once that has helped."""
        dialect, refused = self._dialect, None
        while True:
            body, stream = request.build(dialect)
            try:
                answer = await self._send(route, body, stream, request.read)
            except RequestRefused as error:
                refused = refused or error
                simpler = dialect.simpler(body, str(error)) if error.status in (400, 422) else None
                if simpler is None:
                    raise refused from None
                dialect = simpler
            else:
                if dialect != self._dialect:
                    self._dialect = dialect
                    log.warning("%s: asked more simply from now on, since the server said: %s", self.role, refused)
                return answer

    async def _send(self, route: Route, body: Mapping[str, Any], stream: Stream | None, read: Reader[Answer]) -> Answer:
        if self._session is None:
            raise RuntimeError("LlmClient is used outside `async with`")
        answer, headers = await route.post(self._session, body, stream)
        try:
            return read(answer, headers)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            words = f"the answer lacks what the protocol promises ({type(error).__name__}: {error})"
            raise Failure(Cause.INCOMPLETE, route.safe(words)[:400]) from None

    # -- counting -----------------------------------------------------------------------------------------------------

    def _answer(self, said: Said, seconds: float) -> ChatAnswer:
        prompt, completion = said.prompt_tokens, said.completion_tokens
        known = prompt is not None and completion is not None
        cost = cost_of(self._price, prompt or 0, completion or 0) if known else None
        self._meter.answered(prompt or 0, completion or 0, cost)
        return ChatAnswer(
            text=said.text,
            finish_reason=said.finish_reason,
            prompt_tokens=prompt or 0,
            completion_tokens=completion or 0,
            reasoning=said.reasoning,
            model=said.model or self.model,
            cost=cost,
            seconds=seconds,
        )

    def _guess(self, messages: Sequence[Message], max_tokens: int) -> float:
        if self._mean_tokens is not None:
            return self._mean_tokens
        return sum(len(message["content"]) for message in messages) / _CHARACTERS_A_TOKEN + max_tokens

    def _correct(self, guess: float, prompt: int | None, completion: int | None) -> None:
        if prompt is None or completion is None:
            return
        used = float(prompt + completion)
        self._tokens.correct(used - guess)
        self._mean_tokens = used if self._mean_tokens is None else 0.98 * self._mean_tokens + 0.02 * used


def _has_version(base: str) -> bool:
    """Whether the address holds the version already, as in https://host/api/v1 or https://host/v1beta/openai."""
    return any(part[:1] == "v" and part[1:2].isdigit() for part in urlsplit(base).path.split("/"))
