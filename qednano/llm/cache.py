"""Answers kept on disk by what was asked: the very same request is not paid twice.

`<folder>/<first two hex digits>/<sha256>.json` holds the digest of the answer and the answer. An entry is written
beside and renamed into place; one that is torn, or was changed, is as if it were not there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from qednano.artifacts import write_atomic
from qednano.llm.chat import ChatAnswer, ChatModel, ChatParams, Message

_KEPT = ("text", "finish_reason", "prompt_tokens", "completion_tokens", "reasoning", "model")


class AnswerCache:
    """Answers in a folder, which any number of processes may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(identity: str, messages: Sequence[Message], params: ChatParams) -> str:
        """The sha256 of what is asked: of which model, in which words, drawn how, the seed included."""
        asked = [identity, [dict(message) for message in messages], asdict(params)]
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def get(self, key: str) -> ChatAnswer | None:
        """The answer that was kept, as one that costs nothing; None when there is none that is whole."""
        try:
            entry = json.loads(self._path(key).read_bytes())
            answer = entry["answer"]
            if entry["sha256"] != _digest(answer):
                return None
            found = ChatAnswer(**{name: answer[name] for name in _KEPT})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return replace(found, cached=True, cost=Decimal(0))

    def put(self, key: str, answer: ChatAnswer) -> None:
        """Keep an answer."""
        kept = {name: getattr(answer, name) for name in _KEPT}
        path = self._path(key)
        write_atomic(path, json.dumps({"sha256": _digest(kept), "answer": kept}))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _digest(answer: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()


class Cached:
    """A model whose answers are kept; a ChatModel. `identity`: the model in all that tells it from others."""

    def __init__(self, model: ChatModel, cache: AnswerCache, identity: str) -> None:
        self._model, self._cache, self._identity = model, cache, identity

    @property
    def name(self) -> str:
        return self._model.name

    async def chat(self, messages: Sequence[Message], params: ChatParams) -> ChatAnswer:
        """The answer that was kept, or a new one. Draws without a seed are always new: each is to be another."""
        if params.seed is None and params.temperature > 0:
            return await self._model.chat(messages, params)
        key = self._cache.key(self._identity, messages, params)
        kept = await asyncio.to_thread(self._cache.get, key)
        if kept is not None:
            return kept
        answer = await self._model.chat(messages, params)
        await asyncio.to_thread(self._cache.put, key, answer)
        return answer
