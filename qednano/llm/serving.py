"""The server role: a vLLM child, a small proxy in front of it, and the weights it serves.

The proxy forwards three routes of the OpenAI protocol and /health, so vLLM's control routes are reachable from this
process alone; two of its own, which want the run's token, have them used for the trainer. Each answer is stamped with
the weight versions in force when its request came and when it was answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from qednano.errors import ConfigError
from qednano.llm.client import MODEL, VERSION_END, VERSION_START
from qednano.llm.vllm import EngineFailed, VllmOptions, VllmProcess
from qednano.metrics import WEIGHT_PAUSE_SECONDS, WEIGHT_SYNC_FAILURES, WEIGHT_SYNC_SECONDS, WEIGHT_VERSION
from qednano.progress import Reporter
from qednano.rl.control import CONNECT, RECEIVE, RECEIVE_SECONDS, token_of
from qednano.rl.pool import ServerRecord, announce, withdraw
from qednano.rl.weights import PublishedWeights, latest

log = logging.getLogger(__name__)

FORWARDED = {
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/tokenize"),
}
LATEST_POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 1.0
RELOAD_TRIES = 3
LOAD_SECONDS = 1800.0  # a model of hundreds of GB from a slow volume takes minutes; more than this is a hang
_LARGEST_REQUEST = 64 << 20
_NOT_SHAPE = {"dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache", "architectures"}


@dataclass
class Serving:
    """What is served now. `version` counts optimizer steps; 0 is the model that the run started from."""

    name: str
    role: str
    url: str
    model: str
    version: int = 0
    in_flight: int = 0
    answered: int = 0


@dataclass(frozen=True)
class _Published:
    weights: PublishedWeights
    time: float


class ModelServer:
    """One server of the pool. `follow`: serve the newest weights that the run's trainer publishes; `loadable`: let
    clients ask for another model of the same shape (evaluations)."""

    def __init__(
        self,
        serving: Serving,
        options: VllmOptions,
        run_dir: Path,
        follow: bool,
        loadable: bool,
        reporter: Reporter,
    ) -> None:
        self.serving, self.run_dir, self.follow, self.loadable = serving, run_dir, follow, loadable
        self.engine = VllmProcess(options)
        self.ready = False
        self._reporter = reporter
        self._session: aiohttp.ClientSession
        self._loading = asyncio.Lock()
        self._loaded: _Published | None = None
        self._received: int | None = None  # the version that came straight from the trainer, until its files are there
        self._broken: asyncio.Future[None]

    async def run(self, host: str, port: int, stopping: Callable[[], bool]) -> None:
        """Serve until `stopping()`; raises EngineFailed when vLLM dies or weights can't be loaded."""
        no_limit = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=no_limit) as self._session:
            self._broken = asyncio.get_running_loop().create_future()
            # A client that goes away cancels its handler, which drops the request to vLLM, which stops generating.
            runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
            await runner.setup()
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                await runner.cleanup()
                raise ConfigError(
                    f"port {port} of the server is taken ({error.strerror}); stop what listens there"
                ) from None
            try:
                await self._supervise(stopping)
            finally:
                withdraw(self.run_dir, self._record())
                self.ready = False
                await self.engine.stop()
                await runner.cleanup()

    async def _supervise(self, stopping: Callable[[], bool]) -> None:
        self._reporter.update(stage="Loading", unit="request", message=f"vLLM loads {self.serving.model}")
        await self.engine.start()
        tasks: list[asyncio.Future[None]] = [
            asyncio.create_task(self._serve()),
            asyncio.create_task(self._beat()),
            asyncio.create_task(self.engine.ended()),
            asyncio.create_task(_until(stopping)),
            self._broken,
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        started = time.monotonic()
        await self.engine.wait_ready(self._session)
        await self._catch_up()
        self.ready = True
        log.info("%s serves %s at %s after %.1f s", self.serving.name, self.serving.model, self.serving.url,
                 time.monotonic() - started)  # fmt: skip
        announce(self.run_dir, self._record())
        while True:
            if await self._catch_up():
                announce(self.run_dir, self._record())
            await asyncio.sleep(LATEST_POLL_SECONDS)

    async def _beat(self) -> None:
        """Say every second that it is there. Also while it loads weights, which takes longer than a heartbeat is
        believed: requests in flight only wait then, and must not be moved."""
        while True:
            if self.ready:
                announce(self.run_dir, self._record())
                self._report()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    # -- weights --------------------------------------------------------------------------------------------------

    async def _catch_up(self) -> bool:
        """Load the newest weights if they aren't the ones served; true when something was loaded."""
        wanted = self._published()
        if wanted is None or wanted == self._loaded:
            return False
        if wanted.weights.version == self._received:
            self._loaded, self._received = wanted, None
            return False
        for attempt in range(1, RELOAD_TRIES + 1):
            try:
                await self._load(str(wanted.weights.folder), wanted.weights.version)
                break
            except EngineFailed as error:
                WEIGHT_SYNC_FAILURES.inc()
                if attempt == RELOAD_TRIES:
                    raise
                log.warning("weights %s could not be loaded, trying again: %s", wanted.weights.folder.name, error)
                await asyncio.sleep(0.2)
                # they may have been removed since newer ones are there
                wanted = self._published() or wanted
        self._loaded = wanted
        WEIGHT_SYNC_SECONDS.observe(max(0.0, time.time() - wanted.time))
        return True

    def _published(self) -> _Published | None:
        """The newest weights and when they were published: a trainer that resumed may use a version number again."""
        if not self.follow:
            return None
        try:
            moment = (self.run_dir / "weights" / "LATEST").stat().st_mtime
        except FileNotFoundError:
            return None
        found = latest(self.run_dir)
        return _Published(found, moment) if found else None

    async def _load(self, folder: str, version: int) -> None:
        async with self._loading:
            self._received = None
            loading = asyncio.wait_for(self.engine.reload(self._session, folder), LOAD_SECONDS)
            try:
                WEIGHT_PAUSE_SECONDS.observe(await loading)
            except TimeoutError:
                raise EngineFailed(f"vLLM has not loaded {folder} within {LOAD_SECONDS:g} s") from None
            await self._go_on(version)

    async def _go_on(self, version: int) -> None:
        # On GPUs before requests go on, so that no new token has the old version; on CPUs a token or two may have,
        # which is then taken for staler than it is.
        self.serving.version = version
        WEIGHT_VERSION.labels(self.serving.role).set(version)
        await self.engine.resume(self._session)

    async def _connect(self, request: web.Request) -> web.Response:
        """The trainer wants to send weights."""
        asked = await self._from_trainer(request, "init_info")
        async with self._loading:
            try:
                await self.engine.connect(self._session, asked["init_info"])
            except EngineFailed as error:
                return web.json_response({"error": str(error)}, status=500)
        return web.json_response({})

    async def _receive(self, request: web.Request) -> web.Response:
        """The trainer sends weights. What was begun is carried through, also when it has gone."""
        asked = await self._from_trainer(request, "update_info", "version")
        try:
            await asyncio.shield(asyncio.ensure_future(self._take(asked["update_info"], int(asked["version"]))))
        except EngineFailed as error:
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"version": self.serving.version})

    async def _take(self, update_info: object, version: int) -> None:
        """Receive; when that fails the engine has undefined weights and this server ends."""
        began = time.monotonic()
        try:
            async with self._loading:
                receiving = self.engine.receive(self._session, update_info)
                WEIGHT_PAUSE_SECONDS.observe(await asyncio.wait_for(receiving, RECEIVE_SECONDS))
                self._received = version
                await self._go_on(version)
            WEIGHT_SYNC_SECONDS.observe(time.monotonic() - began)
        except (EngineFailed, TimeoutError) as error:
            WEIGHT_SYNC_FAILURES.inc()
            failed = EngineFailed(f"weights {version} did not arrive: {error or 'the trainer stopped sending'}")
            self._break(failed)
            raise failed from None
        announce(self.run_dir, self._record())

    async def _from_trainer(self, request: web.Request, *names: str) -> dict[str, Any]:
        """What a request with the run's token asks; others are refused before anything is read."""
        token = token_of(self.run_dir)
        said = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token or not hmac.compare_digest(said.encode(), token.encode()):
            raise web.HTTPForbidden(text="the token of the run is needed")
        if not self.ready:
            raise web.HTTPServiceUnavailable(text="the model is not loaded yet", headers={"Retry-After": "1"})
        try:
            asked = await request.json()
            return {name: asked[name] for name in names}
        except (ValueError, KeyError, TypeError):
            raise web.HTTPBadRequest(text=f"the body must have {', '.join(names)}") from None

    # -- the proxy ------------------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_LARGEST_REQUEST)
        app.router.add_get("/health", self._health)
        if self.loadable:
            app.router.add_post("/qednano/load", self._load_other)
        if self.engine.options.receive_weights:
            app.router.add_post(CONNECT, self._connect)
            app.router.add_post(RECEIVE, self._receive)
        for method, path in sorted(FORWARDED):
            app.router.add_route(method, path, self._forward)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        if self.ready:
            return web.json_response({"model": self.serving.model, "version": self.serving.version})
        return web.json_response({"error": "the model is not loaded yet"}, status=503, headers={"Retry-After": "1"})

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if not self.ready:
            return web.json_response({"error": "the model is not loaded yet"}, status=503, headers={"Retry-After": "1"})
        self.serving.in_flight += 1
        try:
            response = await self._ask_engine(request)
        finally:
            self.serving.in_flight -= 1
        self.serving.answered += 1
        return response

    async def _ask_engine(self, request: web.Request) -> web.StreamResponse:
        start, model = self.serving.version, self.serving.model
        body = await request.read()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        try:
            async with self._session.request(
                request.method, self.engine.url + request.path, data=body or None, headers=headers
            ) as answer:
                if answer.content_type == "text/event-stream":
                    return await self._stream(request, answer, start, model)
                payload = await answer.read()
        except aiohttp.ClientError as error:
            return web.json_response({"error": f"vLLM does not answer: {error}"}, status=502)
        stamps = {VERSION_START: str(start), VERSION_END: str(self.serving.version), MODEL: quote(model)}
        return web.Response(body=payload, status=answer.status, content_type=answer.content_type, headers=stamps)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, start: int, model: str
    ) -> web.StreamResponse:
        """Server-sent events as they come. A comment before each chunk says which weights have been in use by then."""
        headers = {"Content-Type": "text/event-stream", VERSION_START: str(start), MODEL: quote(model)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            await self._pass_on(answer, response, start)
        except aiohttp.ClientError:  # vLLM ended: the client must see that the answer is not whole
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _pass_on(self, answer: aiohttp.ClientResponse, response: web.StreamResponse, start: int) -> None:
        said, whole = start, True
        async for chunk in answer.content.iter_any():
            # between events only: an event may come in several chunks
            if whole and said != self.serving.version:
                said = self.serving.version
                await response.write(version_comment(said))
            whole = chunk.endswith(b"\n\n")
            await response.write(chunk)

    async def _load_other(self, request: web.Request) -> web.Response:
        try:
            uri = str((await request.json())["uri"]).removeprefix("file://")
        except (ValueError, KeyError, TypeError):
            return web.json_response({"error": 'the body must be {"uri": "<model folder>"}'}, status=400)
        if not self.ready:
            return web.json_response({"error": "the server is not ready yet"}, status=503, headers={"Retry-After": "1"})
        if uri != self.serving.model:
            why = difference(Path(self.serving.model), Path(uri))
            if why:
                return web.json_response({"error": why}, status=409)
            try:
                # A switch begun is carried through, also when the one who asked has gone: half of it would be neither.
                await asyncio.shield(asyncio.ensure_future(self._switch(uri)))
            except EngineFailed as error:
                return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"model": uri, "version": self.serving.version})

    async def _switch(self, uri: str) -> None:
        """Serve another model; when that fails the engine has undefined weights and this server ends."""
        try:
            await self._load(uri, self.serving.version + 1)
        except EngineFailed as error:
            self._break(error)
            raise
        self.serving.model = uri
        announce(self.run_dir, self._record())

    def _break(self, error: EngineFailed) -> None:
        self.ready = False
        if not self._broken.done():
            self._broken.set_exception(error)

    # -- what is told to others -----------------------------------------------------------------------------------

    def _record(self) -> ServerRecord:
        serving = self.serving
        return ServerRecord(serving.name, serving.url, serving.version, time.time(), os.getpid(), serving.model)

    def _report(self) -> None:
        serving = self.serving
        self._reporter.update(
            stage="Serving",
            step=serving.answered,
            metrics={"version": serving.version, "inFlight": serving.in_flight},
            message=f"serving version {serving.version} of {serving.model}",
        )


def version_comment(version: int) -> bytes:
    """A comment of an event stream, which other clients pass over: the weights in use from here on."""
    return f": {VERSION_END} {version}\n\n".encode()


async def _until(stopping: Callable[[], bool]) -> None:
    while not stopping():
        await asyncio.sleep(0.1)


def difference(served: Path, wanted: Path) -> str:
    """Why the weights of `wanted` can't be loaded over `served`: a sentence, empty when they can."""
    try:
        shapes = [_shape(folder) for folder in (served, wanted)]
        vocabularies = [
            hashlib.sha256((folder / "tokenizer.json").read_bytes()).digest() for folder in (served, wanted)
        ]
    except (OSError, ValueError) as error:
        return f"{wanted} is not a model folder that can be served: {error}"
    if shapes[0] != shapes[1]:
        names = sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
        named = ", ".join(names[:6])
        return f"{wanted} has another architecture than {served} ({named} differ); evaluate it in a run of its own"
    if vocabularies[0] != vocabularies[1]:
        return f"{wanted} has another tokenizer than {served}; evaluate it in a run of its own"
    return ""


def _shape(folder: Path) -> dict[str, object]:
    config = json.loads((folder / "config.json").read_bytes())
    return {name: value for name, value in config.items() if name not in _NOT_SHAPE}
