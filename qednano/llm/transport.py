"""One POST over HTTP: phases timed apart, what comes back read within bounds, every failure given its cause."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from qednano.llm.failures import Cause, Failure, RequestRefused
from qednano.llm.protocol import EventReader
from qednano.llm.retry import retry_after

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_CAUSES = {429: Cause.RATE_LIMITED, 503: Cause.OVERLOADED, 529: Cause.OVERLOADED}
_LARGEST_ANSWER = 256 << 20
_WORDS = 500
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Timeouts:
    """Seconds: to connect, between two signs of life of a stream (or of a body that has begun), and in all."""

    connect: float = 10.0
    idle: float = 600.0
    total: float = 7200.0


class Stream(Protocol):
    """What puts an answer together from a stream's events."""

    ended: bool

    def take(self, data: bytes) -> None:
        """One event."""

    def whole(self) -> Any:
        """The answer."""


def new_session() -> aiohttp.ClientSession:
    """A pool of connections for any number of clients of one event loop."""
    proxied = any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=60)
    return aiohttp.ClientSession(connector=connector, trust_env=proxied, cookie_jar=aiohttp.DummyCookieJar())


def shown(url: str) -> str:
    """A URL as it may stand in logs: without user, password and query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


class Route:
    """One URL of one server, with what every request to it carries. Never shows the key."""

    def __init__(self, url: str, api_key: str | None, timeouts: Timeouts) -> None:
        self.url, self.shown, self.timeouts = url, shown(url), timeouts
        self._key = api_key
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=timeouts.total, sock_connect=timeouts.connect)

    async def post(
        self, session: aiohttp.ClientSession, body: Mapping[str, Any], stream: Stream | None
    ) -> tuple[Any, Mapping[str, str]]:
        """The answer's JSON, put together by `stream` if it comes as one, and its headers.

        Raises Failure or RequestRefused.
        """
        raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        try:
            async with session.post(
                self.url, data=raw, headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    await self._refusal(response)
                if stream is not None and response.content_type == "text/event-stream":
                    return await self._events(response, stream), response.headers
                return self._parsed(await self._body(response), response), response.headers
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise Failure(Cause.CONNECTION, f"no connection within {self.timeouts.connect:g} s") from None
            words = str(error) or f"no answer within {self.timeouts.total:g} s"
            raise Failure(Cause.TIMEOUT, words) from None
        except (aiohttp.ClientPayloadError, aiohttp.http_exceptions.HttpProcessingError) as error:
            raise Failure(Cause.CUT_SHORT, self.safe(f"{type(error).__name__}: {error}")) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failure(Cause.CONNECTION, self.safe(f"{type(error).__name__}: {error}")) from None

    def safe(self, words: str) -> str:
        """Words of a server without the key, should it repeat it."""
        return words.replace(self._key, "<key>") if self._key else words

    async def _refusal(self, response: aiohttp.ClientResponse) -> None:
        words = self.safe(_readable(await self._start(response)))
        if response.status in RETRYABLE:
            cause = _CAUSES.get(response.status, Cause.SERVER_ERROR)
            raise Failure(cause, f"HTTP {response.status}: {words}", retry_after(response.headers))
        raise RequestRefused(f"{self.shown} refused the request (HTTP {response.status}): {words}", response.status)

    async def _start(self, response: aiohttp.ClientResponse) -> str:
        """The beginning of an error's body; a server in trouble may not finish it."""
        raw = b""
        try:
            async with asyncio.timeout(min(10.0, self.timeouts.idle)):
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > 4 * _WORDS:
                        response.close()
                        break
        except (TimeoutError, aiohttp.ClientError):
            response.close()
        return raw.decode(errors="replace")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        chunks, size = list[bytes](), 0
        while chunk := await self._next(response):
            size += len(chunk)
            if size > _LARGEST_ANSWER:
                response.close()
                raise Failure(Cause.TOO_LONG, f"the answer is longer than {_LARGEST_ANSWER >> 20} MiB")
            chunks.append(chunk)
        return b"".join(chunks)

    def _parsed(self, raw: bytes, response: aiohttp.ClientResponse) -> Any:
        try:
            return json.loads(raw)
        except ValueError:  # also for bytes that are not UTF-8
            words = _readable(raw[:_WORDS].decode(errors="replace"))[:120]
            told = f"the answer is not JSON but {response.content_type} of {len(raw)} bytes: {words!r}"
            raise Failure(Cause.UNREADABLE, self.safe(told)) from None

    async def _events(self, response: aiohttp.ClientResponse, stream: Stream) -> Any:
        events, size = EventReader(), 0
        while not stream.ended and (chunk := await self._next(response)):
            size += len(chunk)
            if size > _LARGEST_ANSWER:
                response.close()
                raise Failure(Cause.TOO_LONG, f"the stream is longer than {_LARGEST_ANSWER >> 20} MiB")
            for data in events.feed(chunk):
                try:
                    stream.take(data)
                except ValueError as error:
                    raise Failure(Cause.UNREADABLE, f"an event of the stream is not JSON: {error}") from None
        return stream.whole()

    async def _next(self, response: aiohttp.ClientResponse) -> bytes:
        """More of the body; empty at its end."""
        content = response.content
        if chunk := content.read_nowait(-1):
            return chunk
        try:
            async with asyncio.timeout(self.timeouts.idle):
                return await content.readany()
        except TimeoutError:
            raise TimeoutError(f"nothing came for {self.timeouts.idle:g} s in the middle of the answer") from None


def _readable(words: str) -> str:
    """An error body in one line: its message if it is JSON that has one."""
    try:
        value = json.loads(words)
    except ValueError:
        value = None
    if isinstance(value, dict):
        error = value.get("error", value)
        words = str(error.get("message", error) if isinstance(error, dict) else error)
    return " ".join(words.split())[:_WORDS]
