"""A model that the run serves itself, as one to chat with: any server of its pool may answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from qednano.errors import Unavailable
from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.llm.client import LlmClient, Prompt, RequestRefused, SamplingParams
from qednano.llm.cost import FREE, cost_of
from qednano.llm.retry import RetryPolicy
from qednano.llm.thinking import split_thinking
from qednano.rl.pool import Pool, ServerRecord
from qednano.rl.rollouts import REQUEST_SECONDS, Rollouts

_RETRY = RetryPolicy(tries=2, first=0.2, longest=1.0, longest_retry_after=2.0)
_LOOK_SECONDS = 2.0
_TEMPLATE_TOKENS = 1024  # more than any chat template adds
_REMEMBERED, _LONGEST = 1024, 8192  # prompts that are kept as token ids, and how long each may be


class Conversations(Rollouts):
    """Chats with whichever server of a role is free; a request outlives the server it was sent to."""

    def __init__(self, pool: Pool, role: str, max_concurrent: int, waiting: Callable[[float], None]) -> None:
        super().__init__(pool, waiting)
        self._role, self._max_concurrent = role, max_concurrent
        self._next_look, self._alive_urls = 0.0, set[str]()

    async def chat(self, messages: Sequence[Message], params: ChatParams, opened: bool) -> ChatAnswer:
        """One answer. Raises RequestRefused, or Unavailable when nobody can answer."""
        return await self._somewhere(
            lambda client: self._while_it_lives(client, client.chat(messages, params, opened=opened))
        )

    async def _while_it_lives(self, client: LlmClient, asking: Coroutine[Any, Any, ChatAnswer]) -> ChatAnswer:
        """The answer, unless the server's heartbeat stops first: a node that is lost closes no connection."""
        task = asyncio.create_task(asking)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
                if client.base_url not in self._alive():
                    raise Unavailable(f"the heartbeat of {client.base_url} stopped while it answered")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _alive(self) -> set[str]:
        """URLs of the live servers; looked up once for all requests that ask in one look's time."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._alive_urls = {record.url.rstrip("/") for record in self.pool.servers()}
        return self._alive_urls

    def close(self) -> None:
        """Say what the clients' logs owe."""
        for client in self._clients.values():
            client.close()

    def _client(self, server: ServerRecord) -> LlmClient:
        if server.url not in self._clients:
            self._clients[server.url] = LlmClient(
                server.url,
                role=self._role,
                timeout=REQUEST_SECONDS,
                max_concurrent=self._max_concurrent,
                price=FREE,
                retry=_RETRY,
                session=self._session,
            )
        return self._clients[server.url]


class ServedModel:
    """A chat model over the pool of a role. `length`: prompt and answer together, in tokens.

    Free text is drawn as completions of the chat template, which go on elsewhere from the tokens that had come when a
    server dies; what must keep to a schema is asked for as a chat. Text behind the last </think> is the answer.
    """

    def __init__(self, conversations: Conversations, name: str, length: int) -> None:
        self._conversations, self.name, self._length = conversations, name, length
        self._prompts: OrderedDict[bytes, Prompt] = OrderedDict()
        self._opened: bool | None = None  # whether the template begins answers inside their thinking

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """One answer, no longer than the model's length allows.

        Raises RequestRefused for a prompt that fills that length, Unavailable when no server answers.
        """
        if params.schema is None:
            return await self._written(messages, params)
        most = sum(len(message["content"].encode(errors="replace")) for message in messages) + _TEMPLATE_TOKENS
        if self._opened is None or most + params.max_tokens > self._length:  # a token has one byte at least
            prompt = await self._prompt(messages)
            self._opened = prompt.reasoning
            params = replace(params, max_tokens=min(self._space(prompt), params.max_tokens))
        answer = await self._conversations.chat(messages, params, self._opened)
        return replace(answer, model=self.name)

    async def _written(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        prompt = await self._prompt(messages)
        most = min(self._space(prompt), params.max_tokens)
        sampling = SamplingParams(most, params.temperature, params.top_p, params.seed, params.top_k)
        batch = await self._conversations.complete(prompt.ids, sampling, 1)
        choice = batch.choices[0]
        thought, text = split_thinking(choice.text, prompt.reasoning)
        return ChatAnswer(
            text=text,
            finish_reason=choice.finish_reason,
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(choice.token_ids),
            cost=cost_of(FREE, len(prompt.ids), len(choice.token_ids)),
            reasoning=thought,
            model=self.name,
            seconds=batch.seconds,
        )

    def _space(self, prompt: Prompt) -> int:
        """Tokens that the prompt leaves for an answer."""
        space = self._length - len(prompt.ids)
        if space < 1:
            raise RequestRefused(
                f"the prompt for {self.name} has {len(prompt.ids)} tokens, which fills server.maxModelLength "
                f"({self._length}); raise it, or leave the row out",
                400,
            )
        return space

    async def _prompt(self, messages: Sequence[Message]) -> Prompt:
        """The conversation as tokens; those that were asked last are remembered, for further samples of a problem."""
        key = hashlib.sha256(json.dumps([dict(message) for message in messages]).encode()).digest()
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        prompt = await self._conversations.conversation(messages)
        if len(prompt.ids) <= _LONGEST:
            self._prompts[key] = prompt
            if len(self._prompts) > _REMEMBERED:
                self._prompts.popitem(last=False)
        return prompt
