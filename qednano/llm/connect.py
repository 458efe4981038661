"""The language models of a run's spec, ready to be asked: endpoints and the servers of the run's own."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import aiohttp

from qednano.api.language import Endpoint
from qednano.api.secret import SecretKey
from qednano.errors import ConfigError
from qednano.job import JobContext
from qednano.llm.cache import AnswerCache, Cached
from qednano.llm.chat import ChatModel
from qednano.llm.client import LlmClient
from qednano.llm.cost import PriceTable
from qednano.llm.served import Conversations, ServedModel
from qednano.llm.transport import new_session, shown
from qednano.plan.language_models import ModelUse, language_models
from qednano.progress import Reporter
from qednano.rl.pool import Pool

log = logging.getLogger(__name__)

ANSWERS = ".answers"
"""Folder beside the runs of a namespace: answers by what was asked, of endpoints that say `cache`."""

_STREAM_FROM = 4096  # tokens; shorter answers arrive before anything on the way takes the connection for dead
_SAY_WAITING_SECONDS = 10.0


def secret(key: SecretKey, field: str, env: Mapping[str, str]) -> str:
    """The value of a Secret's key. ConfigError names the variable that is missing or unusable; never the value."""
    for name in (key.pod_variable, key.variable):
        value = env.get(name, "").strip()
        if value:
            if not value.isascii() or any(character.isspace() for character in value):
                raise ConfigError(f"{field}: {name} can't be an API key: it holds spaces or other than ASCII")
            return value
    raise ConfigError(
        f"{field}: key {key.key} of Secret {key.name} is not set: "
        f"export {key.variable}, or on a cluster make the Secret"
    )


def endpoint_client(
    endpoint: Endpoint, field: str, *, env: Mapping[str, str], session: aiohttp.ClientSession | None = None
) -> LlmClient:
    """The client of an endpoint. ConfigError when its key is missing."""
    return LlmClient(
        endpoint.url,
        model=endpoint.model,
        api_key=secret(endpoint.api_key, f"{field}/endpoint/apiKey", env) if endpoint.api_key else None,
        protocol=endpoint.protocol,
        role=field,
        timeout=float(endpoint.timeout_seconds),
        max_concurrent=endpoint.max_concurrent,
        requests_per_minute=endpoint.requests_per_minute,
        tokens_per_minute=endpoint.tokens_per_minute,
        stream_from=_STREAM_FROM,
        price=endpoint.price,
        session=session,
    )


@contextlib.asynccontextmanager
async def served_model(
    run_dir: Path,
    role: str,
    *,
    name: str,
    max_model_length: int,
    max_concurrent: int,
    waiting: Callable[[float], None] = lambda _: None,
    model_uri: str | None = None,
) -> AsyncIterator[ChatModel]:
    """A chat model over the servers of a role of this run.

    `max_concurrent`: sequences that one server decodes at once; it is sent twice as many requests, so that one waits
    for each place. `model_uri`: ask only servers of that model. `waiting(seconds)` is told while there is no server.
    """
    pool = Pool(run_dir, role)
    pool.wanted_model = model_uri
    conversations = Conversations(pool, role, 2 * max_concurrent, waiting)
    async with conversations:
        try:
            yield ServedModel(conversations, name, max_model_length)
        finally:
            conversations.close()


@contextlib.asynccontextmanager
async def open_models(ctx: JobContext, env: Mapping[str, str] = os.environ) -> AsyncIterator[Mapping[str, ChatModel]]:
    """Every language model of the run's spec by its field (as in stages/3/generate/teacher).

    Nothing is connected before it is asked. Fields with equal endpoints, or with one role, share their limits. Can be
    opened as often as needed, by any event loop. Raises ConfigError for a key that is missing.
    """
    uses = language_models(ctx.spec)
    endpoints = {use.field: use.model.endpoint for use in uses if use.model.endpoint is not None}
    prices = PriceTable({field: endpoint.price for field, endpoint in endpoints.items()})
    for field in prices.unknown:
        log.warning("%s: the price of %s is unknown: its cost is not counted", field, endpoints[field].model)
    cache = AnswerCache(ctx.run_dir.parents[1] / ANSWERS)
    models: dict[str, ChatModel] = {}
    known: dict[str, ChatModel] = {}
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(new_session())
        for use in uses:
            key = use.role or endpoints[use.field].model_dump_json()
            if key not in known:
                model: ChatModel
                if use.role:
                    model = await stack.enter_async_context(_served(ctx, use))
                else:
                    client = endpoint_client(endpoints[use.field], use.field, env=env, session=session)
                    model = await stack.enter_async_context(client)
                    if endpoints[use.field].cache:
                        model = Cached(model, cache, _identity(endpoints[use.field]))
                known[key] = model
            models[use.field] = known[key]
        yield models


def _served(ctx: JobContext, use: ModelUse) -> contextlib.AbstractAsyncContextManager[ChatModel]:
    server = use.model.server
    return served_model(
        ctx.run_dir,
        use.role,
        name=_served_name(ctx, use),
        max_model_length=server.max_model_length,
        max_concurrent=server.max_concurrent,
        waiting=_Waiting(ctx.reporter, use.role),
    )


def _served_name(ctx: JobContext, use: ModelUse) -> str:
    resolved = ctx.config.inputs.get(f"served/{use.role}")
    return (resolved.name or Path(resolved.uri).name) if resolved else use.role


def _identity(endpoint: Endpoint) -> str:
    """The model in all that tells it from others, without secrets."""
    return f"{endpoint.protocol} {shown(endpoint.url)} {endpoint.model}"


class _Waiting:
    """Tells the reporter now and then that there is no server yet."""

    def __init__(self, reporter: Reporter, role: str) -> None:
        self._reporter, self._role, self._next = reporter, role, 0.0

    def __call__(self, seconds: float) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAY_WAITING_SECONDS
            self._reporter.update(message=f"no server of {self._role} answers yet, for {seconds:.0f} s")
