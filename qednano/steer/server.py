"""An API server for commands: JSON, streams of bytes, and a command in a pod. Errors are sentences."""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from qednano.errors import ConfigError, QedError, Unavailable, UsageError
from qednano.steer.kubeconfig import Connection, load

T = TypeVar("T")
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
_SECONDS = 30.0
_SILENCE = 120.0  # seconds without a byte after which a command in a pod is given up
_OUT, _ERR, _END = 1, 2, 3  # channels of v4.channel.k8s.io


class Refused(Exception):
    """The API server answered with an error status and, as a rule, a message."""

    def __init__(self, status: int, reason: str, body: bytes) -> None:
        super().__init__(f"{status} {reason}")
        self.status, self.words = status, f"{status} {reason}".strip()
        try:
            self.message = " ".join(str(json.loads(body).get("message") or "").split())
        except (ValueError, AttributeError):
            self.message = ""


def explained(what: str, error: Refused) -> QedError:
    """The error as a sentence that begins with what was tried."""
    message = error.message or error.words
    if error.status == 404 and not error.message.startswith("namespaces"):
        return UsageError(f"{what}: not found; is the operator's chart installed? ({error.words})")
    if error.status == 401:
        return UsageError(f"{what}: the cluster does not know you; log in again ({error.words})")
    if error.status == 403:
        remedy = "" if "exceeded quota" in message else "; an admin of the namespace can give you the role edit"
        return UsageError(f"{what}: {message}{remedy}")
    if error.status in (400, 404, 409, 422):
        return ConfigError(f"{what}: {message}")
    return Unavailable(f"{what}: the API server answers {error.words}{f': {error.message}' if error.message else ''}")


class Server:
    """One API server; a session of connections, opened when it is first asked."""

    def __init__(self, context: str = "") -> None:
        self._context = context
        self._connection = load(context)
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None
        atexit.register(self.close)  # a command ends with its last answer, good or bad

    @property
    def connection(self) -> Connection:
        """Where it is, and which namespace its context has."""
        return self._connection

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this server's to its end."""
        return self._runner.run(work)

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    def request(self, method: str, path: str, body: Any = None, what: str = "", content: str = "") -> Any:
        """What the API server answers, as JSON. ``path`` may have a query. Raises QedError."""
        return self.wait_for(self.ask(method, path, body, what, content))

    async def ask(self, method: str, path: str, body: Any = None, what: str = "", content: str = "") -> Any:
        """The same, for several at once."""
        what = what or f"{'reading' if method == 'GET' else 'asking'} {path.partition('?')[0]}"
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await self._open(method, path, body, content)
                async with answer:
                    return json.loads(await answer.read())
        except Refused as error:
            raise explained(what, error) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _silent(what, error) from None

    async def chunks(self, path: str) -> AsyncIterator[bytes]:
        """The answer to GET in pieces as they come, for as long as they come. Raises Refused, or Unavailable."""
        try:
            async with await self._open("GET", path) as answer:
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _silent(f"reading {path.partition('?')[0]}", error) from None

    async def execute(
        self, namespace: str, pod: str, command: Sequence[str], take: Callable[[bytes], None], what: str
    ) -> None:
        """Run a command in a pod and hand its output on in pieces. Raises QedError when it fails or breaks off."""
        query = [("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
        told, end = b"", None
        try:
            session, options = self._ready()
            timeout = aiohttp.ClientWSTimeout(ws_receive=_SILENCE)
            # Version 4 is what every kubelet speaks; its frames begin with the number of their stream.
            protocols = ("v4.channel.k8s.io",)
            async with session.ws_connect(
                self._url(path), protocols=protocols, timeout=timeout, max_msg_size=0, **options
            ) as socket:
                async for message in socket:
                    if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                        continue
                    channel, data = message.data[0], message.data[1:]
                    if channel == _OUT:
                        take(data)
                    elif channel == _ERR:
                        told = (told + data)[-2000:]
                    elif channel == _END:
                        end = json.loads(data)
                        break  # nothing comes after it
        except aiohttp.WSServerHandshakeError as error:
            raise explained(what, Refused(error.status, error.message, b"")) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _silent(what, error) from None
        if end is None:
            raise Unavailable(f"{what}: the connection to pod {pod} broke off; try again")
        if end.get("status") != "Success":
            said = " ".join(told.decode(errors="replace").split()) or str(end.get("message", ""))
            raise Unavailable(f"{what}: {said[-300:]}")

    def _url(self, path: str) -> URL:
        return URL(self._connection.server + path, encoded=True)

    def _ready(self) -> tuple[aiohttp.ClientSession, dict[str, Any]]:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(sock_connect=_SECONDS))
        found = self._connection
        options: dict[str, Any] = {"headers": found.headers, "proxy": found.proxy or None}
        if found.tls is not None:
            options["ssl"] = found.tls
        if found.server_name:
            options["server_hostname"] = found.server_name
        return self._session, options

    async def _open(self, method: str, path: str, body: Any = None, content: str = "") -> aiohttp.ClientResponse:
        """An answer that is good; a log-in that has ended is made once again. Raises Refused."""
        for last in (False, True):
            session, options = self._ready()
            options["headers"] = {**options["headers"], "Accept": "application/json"}
            if body is not None:
                options["data"] = json.dumps(body)
                options["headers"]["Content-Type"] = content or "application/json"
            answer = await session.request(method, self._url(path), **options)
            if answer.status == 401 and not last:
                answer.release()
                self._connection = load(self._context)
                continue
            if answer.status >= 400:
                raise Refused(answer.status, answer.reason or "", await answer.read())
            return answer
        raise AssertionError("the second answer is returned or raised")


def _silent(what: str, error: BaseException) -> Unavailable:
    why = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unavailable(f"{what}: the API server's certificate is not trusted; does `kubectl get ns` work?")
    return Unavailable(f"{what}: the API server does not answer ({why}); does `kubectl get ns` work?")
