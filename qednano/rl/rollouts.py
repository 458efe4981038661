"""Completions from whichever server of the pool is free; a request outlives the server it was sent to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from qednano import metrics
from qednano.errors import Unavailable
from qednano.llm.client import LlmClient, Prompt, RetryPolicy, SamplingParams
from qednano.rl.generation import Draft, Drawn, draw, drawn, score
from qednano.rl.pool import Pool, ServerRecord

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 900.0  # without any server; a model of many GB takes minutes to load
REQUEST_SECONDS = 7200.0
WATCH_SECONDS = 1.0  # a request looks this often whether its server is still in the pool
_FAILURES = 20  # of one request, on live servers


class Rollouts:
    """Draws from the pool; use as an async context manager. `waiting(seconds)` is told while there is no server, and
    `spent(prompt tokens, completion tokens)` after each request, also of one that broke off."""

    def __init__(
        self,
        pool: Pool,
        waiting: Callable[[float], None] = lambda _: None,
        patience: float = PATIENCE_SECONDS,
        spent: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.pool = pool
        self._waiting, self._patience, self._spent = waiting, patience, spent
        self._clients: dict[str, LlmClient] = {}
        self._live: set[str] = set()
        self._look_again = 0.0
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Rollouts:
        self._session, self._clients = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)), {}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def complete(self, prompt_ids: Sequence[int], sampling: SamplingParams, n: int) -> Drawn:
        """`n` completions. When a server dies in mid-answer, others go on from the tokens that had come.

        Raises RequestRefused, or Unavailable when nobody can answer.
        """
        started = time.monotonic()
        drafts = [Draft(number=number) for number in range(n)]
        model = await self._finish(prompt_ids, sampling, drafts)
        return drawn(drafts, time.monotonic() - started, model)

    async def _finish(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, drafts: Sequence[Draft], failures: int = 0
    ) -> str:
        """Bring drafts with the same tokens so far to their end; the model that the last of them is from.

        When their server dies each goes on as soon as there is another, and waits for none of the others.
        """
        server = await self.pool.wait(self._patience, self._waiting)
        try:
            return await self._draw(server, prompt_ids, sampling, drafts)
        except Unavailable as error:
            failures += 1
            if failures >= _FAILURES:  # time says nothing: an answer may take hours before its server dies
                raise Unavailable(f"no server answered a request in {failures} tries; the last: {error}") from None
        _end_full(drafts, sampling.max_tokens)
        left = [draft for draft in drafts if not draft.whole]
        metrics.MOVED_SAMPLES.inc(len(left))
        metrics.KEPT_TOKENS.inc(sum(len(draft.token_ids) for draft in left))
        going_on = (self._finish(prompt_ids, sampling, part, failures) for part in _alike(left))
        model = ""
        for result in await asyncio.gather(*going_on, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            model = result
        return model

    async def _draw(
        self, server: ServerRecord, prompt_ids: Sequence[int], sampling: SamplingParams, drafts: Sequence[Draft]
    ) -> str:
        before = [len(draft.token_ids) for draft in drafts]
        try:
            async with self.pool.busy(server):
                return await self._unless_gone(
                    server,
                    draw(
                        self._session,
                        server.url,
                        prompt_ids,
                        sampling,
                        drafts,
                        timeout=REQUEST_SECONDS,
                        wanted_model=self.pool.wanted_model,
                    ),
                )
        except Unavailable as error:
            self.pool.distrust(server)
            log.warning("%s does not answer, the request goes elsewhere: %s", server.name, error)
            raise
        finally:
            if drawn_now := sum(len(draft.token_ids) for draft in drafts) - sum(before):
                self._spent(len(prompt_ids) + before[0], drawn_now)

    async def _unless_gone(self, server: ServerRecord, drawing: Coroutine[Any, Any, str]) -> str:
        """The answer, or Unavailable once the server has left the pool: a lost node closes no connection."""
        task = asyncio.create_task(drawing)
        try:
            while not (await asyncio.wait({task}, timeout=WATCH_SECONDS))[0]:
                if server.url not in self._live_urls():
                    raise Unavailable(f"{server.name} has left the pool")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _live_urls(self) -> set[str]:
        """Addresses of the live servers, looked up once a second for all requests."""
        now = time.monotonic()
        if now >= self._look_again:
            self._live, self._look_again = {record.url for record in self.pool.servers()}, now + WATCH_SECONDS
        return self._live

    async def tokenise(self, problem: str) -> Prompt:
        """The problem as the user's turn, through the model's chat template."""
        return await self.conversation([{"role": "user", "content": problem}])

    async def conversation(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """The turns through the model's chat template."""
        return await self._somewhere(lambda client: client.tokenise(messages))

    async def score(self, prompt: int, ids: Sequence[int]) -> list[float]:
        """Log-probs of `ids` behind their first `prompt` tokens, at temperature 1. Raises as `complete` does."""
        found = await self._somewhere(
            lambda client: score(self._session, client.base_url, prompt, ids, REQUEST_SECONDS)
        )
        self._spent(len(ids), 1)  # the protocol has no request for no token
        return found

    async def _somewhere(self, ask: Callable[[LlmClient], Awaitable[Answer]]) -> Answer:
        failures = 0
        while True:
            server = await self.pool.wait(self._patience, self._waiting)
            try:
                async with self.pool.busy(server):
                    return await ask(self._client(server))
            except Unavailable as error:
                failures += 1
                self.pool.distrust(server)
                log.warning("%s does not answer, the request goes elsewhere: %s", server.name, error)
                if failures >= _FAILURES:  # time says nothing: an answer may take hours before its server dies
                    raise Unavailable(f"no server answered a request in {failures} tries; the last: {error}") from None

    def _client(self, server: ServerRecord) -> LlmClient:
        if server.url not in self._clients:
            self._clients[server.url] = LlmClient(
                server.url,
                timeout=REQUEST_SECONDS,
                max_concurrent=4096,
                retry=RetryPolicy(tries=2, first=0.2, longest=1.0, longest_retry_after=2.0),
                session=self._session,
            )
        return self._clients[server.url]


def _alike(drafts: Sequence[Draft]) -> list[list[Draft]]:
    """Drafts by request: neighbours without a token share one, the others each go on from their own tokens."""
    parts: list[list[Draft]] = []
    for draft in drafts:
        last = parts[-1][-1] if parts else None
        if last and not (last.token_ids or draft.token_ids) and draft.number == last.number + 1:
            parts[-1].append(draft)
        else:
            parts.append([draft])
    return parts


def _end_full(drafts: Sequence[Draft], max_tokens: int) -> None:
    """A draft that has all its tokens, but whose server died before it said so, is whole."""
    for draft in drafts:
        if not draft.whole and len(draft.token_ids) >= max_tokens:
            draft.finish_reason = "length"
