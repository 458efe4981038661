"""The OpenAI protocol as values: what is asked as a JSON body, and what its answers say. Nothing here is sent.

Servers differ in what they take. A `Dialect` is what is known of one; `simpler` is what to try when it refuses.
Readers raise KeyError, TypeError, ValueError or IndexError when an answer lacks what the protocol promises, and
Failure when it tells of an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qednano.api.language import Protocol
from qednano.llm.chat import ChatParams, Message
from qednano.llm.failures import Cause, Failure
from qednano.llm.thinking import split_thinking

CHAT, RESPONSES = Protocol.CHAT, Protocol.RESPONSES
ROUTES = {CHAT: "/chat/completions", RESPONSES: "/responses"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """What a server takes: JSON schemas, streams, `max_tokens` or its newer name, sampling that is the default."""

    schema: bool = True
    stream: bool = True
    old_max_tokens: bool = True
    default_sampling: bool = True

    def simpler(self, body: Mapping[str, Any], words: str) -> Dialect | None:
        """The dialect to try after the refusal of `body` with `words`; None when no other would say the same.

        A server need not name the schema that it can't use, so a request with one is always tried without.
        """
        if self.old_max_tokens and "max_completion_tokens" in words:
            return replace(self, old_max_tokens=False)
        named = next((name for name in ("temperature", "top_p") if name in words), None)
        if self.default_sampling and named and body.get(named) == 1:
            return replace(self, default_sampling=False)
        if self.stream and body.get("stream") and "stream" in words.lower():
            return replace(self, stream=False)
        if self.schema and ("response_format" in body or "format" in body.get("text", ())):
            return replace(self, schema=False)
        return None


@dataclass(frozen=True)
class Said:
    """What an answer says, in whichever protocol. Token counts are None when the server told none."""

    text: str
    reasoning: str
    finish_reason: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None


# -- asking -----------------------------------------------------------------------------------------------------------


def chat_body(model: str, messages: Sequence[Message], params: ChatParams, dialect: Dialect, stream: bool) -> Json:
    """The body of a chat completion."""
    limit = "max_tokens" if dialect.old_max_tokens else "max_completion_tokens"
    body: Json = {"model": model, "messages": [dict(message) for message in messages], limit: params.max_tokens}
    _sampling(body, params, dialect)
    if params.seed is not None:
        body["seed"] = params.seed
    if params.reasoning_effort is not None:
        body["reasoning_effort"] = params.reasoning_effort.lower()
    if params.schema is not None and dialect.schema:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": params.schema, "strict": True},
        }
    if stream and dialect.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def responses_body(model: str, messages: Sequence[Message], params: ChatParams, dialect: Dialect, stream: bool) -> Json:
    """The body of a request to the Responses API, which keeps nothing on the server. It knows no seed."""
    body: Json = {
        "model": model,
        "input": [dict(message) for message in messages],
        "max_output_tokens": params.max_tokens,
        "store": False,
    }
    _sampling(body, params, dialect)
    if params.reasoning_effort is not None:
        body["reasoning"] = {"effort": params.reasoning_effort.lower()}
    if params.schema is not None and dialect.schema:
        body["text"] = {
            "format": {"type": "json_schema", "name": "answer", "schema": params.schema, "strict": True},
        }
    if stream and dialect.stream:
        body["stream"] = True
    return body


def _sampling(body: Json, params: ChatParams, dialect: Dialect) -> None:
    for name, value in (("temperature", params.temperature), ("top_p", params.top_p)):
        if value != 1 or dialect.default_sampling:
            body[name] = value
    if params.top_k:
        body["top_k"] = params.top_k


# -- answers ----------------------------------------------------------------------------------------------------------


def read_chat(answer: Any, opened: bool = False) -> Said:
    """What a chat completion says; `opened` as in `split_thinking`."""
    _check_error(answer)
    choice = answer["choices"][0]
    _check_error(choice)
    message = choice["message"]
    content = message.get("content")
    return _said(
        answer,
        _plain(content) if content is not None else str(message.get("refusal") or ""),
        str(message.get("reasoning_content") or message.get("reasoning") or ""),
        choice["finish_reason"],
        opened,
    )


def read_responses(answer: Any, opened: bool = False) -> Said:
    """What an answer of the Responses API says."""
    _check_error(answer)
    status = answer["status"]
    if status not in ("completed", "incomplete"):
        raise Failure(Cause.SERVER_ERROR, f"the answer's status is {str(status)[:40]!r}")
    texts, thoughts = list[str](), list[str]()
    for item in answer["output"]:
        if item["type"] == "message":
            texts += [str(part.get("text") or part.get("refusal") or "") for part in item["content"]]
        elif item["type"] == "reasoning":
            parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
            thoughts += [str(part.get("text", "")) for part in parts]
    if not answer["output"]:
        raise ValueError("no output")
    why = (answer.get("incomplete_details") or {}).get("reason", "")
    ended = "stop" if status == "completed" else "length" if why == "max_output_tokens" else str(why or "incomplete")
    usage = answer.get("usage") or {}
    renamed = {"prompt_tokens": usage.get("input_tokens"), "completion_tokens": usage.get("output_tokens")}
    return _said({**answer, "usage": renamed}, "".join(texts), "\n\n".join(thoughts), ended, opened)


READERS = {CHAT: read_chat, RESPONSES: read_responses}
BODIES = {CHAT: chat_body, RESPONSES: responses_body}


def _said(answer: Any, text: str, reasoning: str, finish_reason: Any, opened: bool) -> Said:
    if reasoning:  # the server has split it; what is left may still begin with the end of the block
        thought, text = "", text.strip()
    else:
        thought, text = split_thinking(text, opened)
    usage = answer.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (None if count is None else int(count) for count in counts)
    return Said(
        text, reasoning.strip() or thought, str(finish_reason or "stop"), str(answer.get("model") or ""),
        prompt, completion,
    )  # fmt: skip


def _plain(content: Any) -> str:
    """Text of a message: a string, or a list of parts of which the text counts."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")


def _check_error(answer: Any) -> None:
    """Gateways tell of errors inside answers with status 200."""
    error = answer.get("error")
    if not error:
        return
    words, code = (error.get("message"), error.get("code")) if isinstance(error, Mapping) else (error, None)
    limited = str(code) in ("429", "rate_limit_exceeded")
    raise Failure(Cause.RATE_LIMITED if limited else Cause.SERVER_ERROR, f"the answer tells of an error: {words}"[:400])


# -- streams ----------------------------------------------------------------------------------------------------------


class EventReader:
    """Server-sent events out of chunks of bytes, however they are cut; comments are passed over."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._looked = 0
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """The data of each event that is complete now."""
        self._rest += chunk
        while (end := self._rest.find(b"\n", self._looked)) >= 0:
            line = bytes(self._rest[:end]).rstrip(b"\r")
            del self._rest[: end + 1]
            self._looked = 0
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data = []
        self._looked = len(self._rest)


@dataclass
class ChatStream:
    """A chat completion put together from its deltas."""

    ended: bool = False
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Any = None
    model: str = ""

    def take(self, data: bytes) -> None:
        """One event. Raises Failure, or ValueError for one that can't be read."""
        if data == b"[DONE]":
            self.ended = True
            return
        event = json.loads(data)
        _check_error(event)
        self.model = event.get("model") or self.model
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            self.text.append(delta.get("content") or delta.get("refusal") or "")
            self.reasoning.append(delta.get("reasoning_content") or delta.get("reasoning") or "")
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def whole(self) -> Any:
        """The answer as if it had come at once. Raises Failure when the stream ended before the answer did."""
        if self.finish_reason is None:
            raise Failure(Cause.CUT_SHORT, f"the stream ended after {len(self.text)} pieces without its end")
        message = {"content": "".join(self.text), "reasoning": "".join(self.reasoning)}
        choices = [{"message": message, "finish_reason": self.finish_reason}]
        return {"choices": choices, "usage": self.usage, "model": self.model}


@dataclass
class ResponseStream:
    """An answer of the Responses API: its last event holds all of it, the others show that it goes on."""

    ended: bool = False
    answer: Any = None

    def take(self, data: bytes) -> None:
        """One event. Raises Failure, or ValueError for one that can't be read."""
        if data == b"[DONE]":
            self.ended = True
            return
        if b'.delta"' in data[:100]:
            return
        event = json.loads(data)
        kind = event.get("type")
        if kind == "error":
            _check_error({"error": event.get("error") or event})
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            self.answer, self.ended = event["response"], True

    def whole(self) -> Any:
        """The answer. Raises Failure when the stream ended without one."""
        if self.answer is None:
            raise Failure(Cause.CUT_SHORT, "the stream ended without its last event")
        return self.answer


STREAMS = {CHAT: ChatStream, RESPONSES: ResponseStream}
