"""The evaluated model as one to chat with: completions of its own chat template from whichever server is free."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from qednano.llm.chat import ChatAnswer, ChatParams, Message
from qednano.llm.client import Prompt, RequestRefused, SamplingParams, written_proof
from qednano.rl.rollouts import Rollouts

_REMEMBERED, _LONGEST = 1024, 8192  # prompts that are kept as token ids, and how long each may be


class Conversations(Rollouts):
    """Rollouts that know conversations of more than one turn."""

    async def conversation(self, messages: Sequence[Message]) -> Prompt:
        """The turns through the model's chat template."""
        return await self._somewhere(lambda client: client.tokenise(messages))


class ServedModel:
    """A chat model over the pool. Text behind the last </think> is the answer; none while thinking goes on."""

    def __init__(self, pool: Conversations, name: str, max_model_length: int) -> None:
        self._pool, self.name, self._length = pool, name, max_model_length
        self._prompts: OrderedDict[bytes, Prompt] = OrderedDict()

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """One answer. Raises RequestRefused for a prompt that fills the model's length, Unavailable."""
        prompt = await self._prompt(messages)
        space = self._length - len(prompt.ids)
        if space < 1:
            raise RequestRefused(
                f"the prompt has {len(prompt.ids)} tokens, which fills spec.server.maxModelLength ({self._length}); "
                "raise it, or take out the problem",
                400,
            )
        sampling = SamplingParams(
            min(space, params.max_tokens), params.temperature, params.top_p, params.seed, params.top_k
        )
        batch = await self._pool.complete(prompt.ids, sampling, 1)
        choice = batch.choices[0]
        text = written_proof(choice.text, prompt.reasoning)
        thought, ended, _ = choice.text.rpartition("</think>")
        reasoning = thought if ended else "" if text else choice.text
        return ChatAnswer(
            text=text,
            finish_reason=choice.finish_reason,
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(choice.token_ids),
            reasoning=reasoning.strip().removeprefix("<think>").strip(),
            model=self.name,
            seconds=batch.seconds,
        )

    async def _prompt(self, messages: Sequence[Message]) -> Prompt:
        key = hashlib.sha256(json.dumps([dict(message) for message in messages]).encode()).digest()
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        prompt = await self._pool.conversation(messages)
        if len(prompt.ids) <= _LONGEST:
            self._prompts[key] = prompt
            if len(self._prompts) > _REMEMBERED:
                self._prompts.popitem(last=False)
        return prompt
