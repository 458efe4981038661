"""Completions that are kept as they come: what a server has sent is not lost when it dies in mid-answer.

A `Draft` is one answer under way. It can be gone on with at another server, from its prompt and the tokens it has; the
weights may be others by then, so it knows the oldest and the newest ones that had a part in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import aiohttp

from qednano.errors import Unavailable
from qednano.llm.client import (
    MODEL,
    VERSION_END,
    VERSION_START,
    Completion,
    CompletionBatch,
    RequestRefused,
    SamplingParams,
)

_SEEDS = 1 << 31
_LATER = frozenset({408, 425, 429})


@dataclass
class Draft:
    """One answer as far as it has come, the `number`-th of its group; `finish_reason` is empty until it is whole."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    version_start: int | None = None
    version_end: int | None = None
    number: int = 0

    @property
    def whole(self) -> bool:
        """Whether it has ended by itself or at its limit."""
        return bool(self.finish_reason)

    def add(self, choice: Any, version: int) -> None:
        """Take in what a server sent for it, made with weights `version` or the version before them."""
        ids = [int(token) for token in choice.get("token_ids") or ()]
        logprobs = [float(value) for value in (choice.get("logprobs") or {}).get("token_logprobs") or ()]
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} token ids but {len(logprobs)} log-probs")
        if not all(map(math.isfinite, logprobs)):
            raise ValueError("a log-prob is not finite: its weights may be broken")
        self.token_ids += ids
        self.logprobs += logprobs
        self.text += str(choice["text"])
        self.finish_reason = str(choice.get("finish_reason") or "")
        self.seen(version)

    def seen(self, version: int) -> None:
        """Weights `version` were in use while it was made. After a resumed trainer went back, the end is lower."""
        if self.version_start is None:
            self.version_start = version
        self.version_end = version

    @property
    def oldest_version(self) -> int:
        """The older of its two versions."""
        return min(self.version_start or 0, self.version_end or 0)

    def completion(self) -> Completion:
        """It, once it is whole."""
        return Completion(self.text, self.finish_reason, self.token_ids, self.logprobs)


@dataclass(frozen=True)
class Drawn(CompletionBatch):
    """A batch that knows the weight versions (at start and end) of each of its choices."""

    versions: Sequence[tuple[int, int]] = ()


def drawn(drafts: Sequence[Draft], seconds: float, model: str) -> Drawn:
    """The batch of whole drafts."""
    versions = [(draft.version_start or 0, draft.version_end or 0) for draft in drafts]
    return Drawn(
        choices=[draft.completion() for draft in drafts],
        version_start=min(start for start, _ in versions),
        version_end=max(end for _, end in versions),
        seconds=seconds,
        model=model,
        versions=versions,
    )


def request_seed(*parts: object) -> int:
    """A seed of 31 bits for one request, the same for the same parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS


async def draw(
    session: aiohttp.ClientSession,
    url: str,
    prompt_ids: Sequence[int],
    sampling: SamplingParams,
    drafts: Sequence[Draft],
    *,
    timeout: float,
    wanted_model: str | None = None,
) -> str:
    """Fill `drafts`, all with the same tokens so far, from one server; the model that it says it serves.

    Several must follow one another in their group: vLLM seeds the i-th answer of a request with its seed plus i, so
    that each draft gets the seed of its place, whichever of the others are drawn with it.

    Raises RequestRefused, or Unavailable when the answer broke off (the drafts then hold what had come) or the server
    has another model than the one wanted.
    """
    done = drafts[0].token_ids
    body: dict[str, Any] = {
        "model": "policy",
        "prompt": [*prompt_ids, *done],
        "n": len(drafts),
        "max_tokens": sampling.max_tokens - len(done),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "logprobs": 0,
        "return_token_ids": True,
        "stream": True,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.seed is not None:
        # the same seed would repeat the draws of the first part
        body["seed"] = (sampling.seed + drafts[0].number + len(done)) % _SEEDS
    limits = aiohttp.ClientTimeout(total=timeout, sock_connect=10)
    try:
        async with session.post(f"{url}/v1/completions", json=body, timeout=limits) as answer:
            await _check(answer)
            model = unquote(answer.headers.get(MODEL, ""))
            if wanted_model not in (None, model):
                raise Unavailable(f"{url} serves {model or 'no model by name'} and not {wanted_model}")
            version = int(answer.headers.get(VERSION_START, 0))
            if answer.content_type == "text/event-stream":
                async for line in _lines(answer):
                    if line.startswith(f": {VERSION_END} "):
                        version = int(line.rpartition(" ")[2])
                        for draft in drafts:
                            if draft.version_start is not None and not draft.whole:
                                draft.seen(version)
                    elif line.startswith("data: ") and line != "data: [DONE]":
                        _take(drafts, json.loads(line[6:]), version)
            else:
                for draft in drafts:
                    draft.seen(version)
                _take(drafts, await answer.json(content_type=None), int(answer.headers.get(VERSION_END, version)))
    except TimeoutError:
        raise Unavailable(f"{url} gave no answer within {timeout:g} s") from None
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Unavailable(f"{url} gave no whole answer ({type(error).__name__}: {error})") from error
    if not all(draft.whole for draft in drafts):
        raise Unavailable(f"{url} ended its answer before it was whole")
    return model


def _take(drafts: Sequence[Draft], event: Any, version: int) -> None:
    if "error" in event:
        raise ValueError(str(event["error"])[:300])
    for choice in event["choices"]:
        drafts[int(choice["index"])].add(choice, version)


async def score(
    session: aiohttp.ClientSession, url: str, prompt: int, ids: Sequence[int], timeout: float
) -> list[float]:
    """Log-probs (temperature 1) of `ids` behind their first `prompt` tokens, by the model that a vLLM server has.

    Raises RequestRefused or Unavailable.
    """
    body = {"model": "policy", "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
    limits = aiohttp.ClientTimeout(total=timeout, sock_connect=10)
    try:
        async with session.post(f"{url}/v1/completions", json=body, timeout=limits) as answer:
            await _check(answer)
            given = (await answer.json(content_type=None))["choices"][0]["prompt_logprobs"]
        found = [float(given[place][str(ids[place])]["logprob"]) for place in range(prompt, len(ids))]
    except TimeoutError:
        raise Unavailable(f"{url} gave no answer within {timeout:g} s") from None
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Unavailable(f"{url} gave no log-probs ({type(error).__name__}: {error})") from error
    return found


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 200:
        return
    words = (await answer.text(errors="replace"))[:500]
    if answer.status in _LATER or answer.status >= 500:
        raise Unavailable(f"{answer.url} answered HTTP {answer.status}: {words}")
    raise RequestRefused(f"{answer.url} refused the request (HTTP {answer.status}): {words}", answer.status)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Lines of an event stream; an event with its log-probs may be longer than a reader's line limit."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line.decode()
    if rest:
        yield rest.decode(errors="replace")
