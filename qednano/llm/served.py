"""A model that the run serves itself, as one to chat with: any server of its pool may answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.llm.client import LlmClient, RequestRefused
from qednano.llm.completions import Prompt
from qednano.llm.cost import FREE
from qednano.llm.retry import RetryPolicy
from qednano.rl.pool import Pool, ServerRecord
from qednano.rl.rollouts import REQUEST_SECONDS, Rollouts

_RETRY = RetryPolicy(tries=2, first=0.2, longest=1.0, longest_retry_after=2.0)
_TEMPLATE_TOKENS = 1024  # more than any chat template adds


class Conversations(Rollouts):
    """Chats with whichever server of a role is free; a request outlives the server it was sent to."""

    def __init__(self, pool: Pool, role: str, max_concurrent: int, waiting: Callable[[float], None]) -> None:
        super().__init__(pool, waiting)
        self._role, self._max_concurrent = role, max_concurrent

    async def chat(self, messages: Sequence[Message], params: ChatParams, opened: bool) -> ChatAnswer:
        """One answer. Raises RequestRefused, or Unavailable when nobody can answer."""
        return await self._somewhere(lambda client: client.chat(messages, params, opened=opened))

    async def conversation(self, messages: Sequence[Message]) -> Prompt:
        """The turns through the model's chat template."""
        return await self._somewhere(lambda client: client.tokenise(messages))

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
    """A chat model over the pool of a role. `length`: prompt and answer together, in tokens."""

    def __init__(self, conversations: Conversations, name: str, length: int) -> None:
        self._conversations, self.name, self._length = conversations, name, length
        self._opened: bool | None = None  # whether the template begins answers inside their thinking

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """One answer, no longer than the model's length allows.

        Raises RequestRefused for a prompt that fills that length, Unavailable when no server answers.
        """
        most = sum(len(message["content"].encode(errors="replace")) for message in messages) + _TEMPLATE_TOKENS
        if self._opened is None or most + params.max_tokens > self._length:  # a token has one byte at least
            prompt = await self._conversations.conversation(messages)
            self._opened = prompt.reasoning
            space = self._length - len(prompt.ids)
            if space < 1:
                raise RequestRefused(
                    f"the prompt for {self.name} has {len(prompt.ids)} tokens, which fills server.maxModelLength "
                    f"({self._length}); raise it, or leave the row out",
                    400,
                )
            params = replace(params, max_tokens=min(space, params.max_tokens))
        answer = await self._conversations.chat(messages, params, self._opened)
        return replace(answer, model=self.name)
