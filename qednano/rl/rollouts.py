"""Completions from whichever server of the pool is free; a request outlives the server it was sent to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TypeVar

import aiohttp

from qednano.errors import Unavailable
from qednano.llm.client import CompletionBatch, LlmClient, Prompt, RetryPolicy, SamplingParams
from qednano.rl.pool import Pool, ServerRecord

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 900.0  # without any server; a model of many GB takes minutes to load
REQUEST_SECONDS = 7200.0
_FAILURES = 20  # of one request, on live servers


class Rollouts:
    """Draws from the pool; use as an async context manager. `waiting(seconds)` is told while there is no server."""

    def __init__(
        self, pool: Pool, waiting: Callable[[float], None] = lambda _: None, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.pool = pool
        self._waiting, self._patience = waiting, patience
        self._clients: dict[str, LlmClient] = {}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Rollouts:
        self._session, self._clients = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)), {}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def complete(self, prompt_ids: Sequence[int], sampling: SamplingParams, n: int) -> CompletionBatch:
        """`n` completions, all from one server. Raises RequestRefused, or Unavailable when nobody can answer."""
        while True:
            batch = await self._somewhere(lambda client: client.complete(prompt_ids, sampling, n))
            if self.pool.wanted_model in (None, batch.model):
                return batch
            await asyncio.sleep(0.2)  # the server restarted with the model it was started with

    async def tokenise(self, problem: str) -> Prompt:
        """The problem as the user's turn, through the model's chat template."""
        return await self._somewhere(lambda client: client.tokenise([{"role": "user", "content": problem}]))

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
