"""New weights from the trainer straight to the servers' GPUs, beside the files that everybody can load.

One link for each server, so that servers may come, go and die one by one. The trainer asks a server over HTTP, with a
token of the run's folder, to connect or to receive; the server pauses its vLLM, has it receive, and goes on. A server
that fails in this gets nothing more until it has been connected anew; the files are there for it. Nothing here raises
because of a server: the trainer goes on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from qednano import metrics
from qednano.rl.control import CONNECT, CONNECT_SECONDS, RECEIVE, RECEIVE_SECONDS, make_token
from qednano.rl.nccl import Fabric, Link, TransferFailed
from qednano.rl.pool import Pool, ServerRecord

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0  # between two looks whether a server is still in the pool
GONE_SECONDS = 20.0  # out of the pool; before, its heartbeat may just be late


@dataclass(frozen=True)
class _Connected:
    pid: int
    link: Link


class Broadcaster:
    """The trainer's side, on rank 0. `ranks`: workers of one server, over which its model lies."""

    def __init__(self, run_dir: Path, fabric: Fabric, ranks: int, pool: Pool | None = None) -> None:
        self._fabric, self._ranks = fabric, ranks
        self._pool = pool or Pool(run_dir, "rollout")
        self._token = make_token(run_dir)
        self._links: dict[str, _Connected] = {}

    def send(self, version: int, weights: Mapping[str, Tensor]) -> list[str]:
        """Send to every live server, connecting the new ones; the names of those that have this version now."""
        servers = self._pool.servers()
        for url in set(self._links) - {server.url for server in servers}:
            self._forget(url)
        reached = []
        for server in servers:
            try:
                self._reach(server, version, weights)
                reached.append(server.name)
            except (TransferFailed, OSError) as error:
                metrics.WEIGHT_SYNC_FAILURES.inc()
                log.warning("%s did not get version %d and loads it from files: %s", server.name, version, error)
                self._forget(server.url)
        return reached

    def close(self) -> None:
        """Let go of all servers."""
        for url in list(self._links):
            self._forget(url)

    def _reach(self, server: ServerRecord, version: int, weights: Mapping[str, Tensor]) -> None:
        known = self._links.get(server.url)
        if known is not None and known.pid != server.pid:  # another process at the same address
            self._forget(server.url)
            known = None
        link = known.link if known else self._connect(server)
        told = {
            "names": list(weights),
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()],
            "shapes": [list(tensor.shape) for tensor in weights.values()],
        }
        asked = self._ask(server, RECEIVE, {"version": version, "update_info": told}, RECEIVE_SECONDS)
        gone = self._watch(server)
        for tensor in weights.values():
            if asked.done() or gone():
                break
            link.broadcast(tensor)
        link.finish(lambda: asked.exception() is not None if asked.done() else gone())
        while not wait([asked], WATCH_SECONDS).done:
            if gone():
                raise TransferFailed(f"{server.name} has left the pool")
        asked.result()

    def _watch(self, server: ServerRecord) -> Callable[[], bool]:
        """Whether it has left the pool: a lost node ends neither a request nor a broadcast."""
        looked = there = time.monotonic()

        def gone() -> bool:
            nonlocal looked, there
            if (now := time.monotonic()) >= looked + WATCH_SECONDS:
                looked = now
                if any(record.url == server.url for record in self._pool.servers()):
                    there = now
            return now > there + GONE_SECONDS

        return gone

    def _connect(self, server: ServerRecord) -> Link:
        identity, ranks = self._fabric.unique_id(), self._ranks + 1
        told = {
            "rank_offset": 1,
            "world_size": ranks,
            "nccl_unique_id_b64": base64.b64encode(identity).decode(),
            "packed": False,
        }
        asked = self._ask(server, CONNECT, {"init_info": told}, CONNECT_SECONDS)
        joined = _begin(lambda: self._fabric.join(identity, ranks))
        # Joining can't be called off: where the server refuses, its thread stays until this process ends.
        asked.result()
        try:
            link = joined.result(CONNECT_SECONDS)
        except TimeoutError:
            raise TransferFailed(f"NCCL did not connect within {CONNECT_SECONDS:.0f} s") from None
        self._links[server.url] = _Connected(server.pid, link)
        return link

    def _ask(self, server: ServerRecord, path: str, body: object, seconds: float) -> Future[Any]:
        return _begin(lambda: _post(server.url + path, self._token, body, seconds))

    def _forget(self, url: str) -> None:
        known = self._links.pop(url, None)
        if known is not None:
            with contextlib.suppress(TransferFailed):
                known.link.close()


def _post(url: str, token: str, body: object, seconds: float) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise TransferFailed(f"{url} answered {error.code}: {error.read(400).decode(errors='replace')}") from None


def _begin(work: Callable[[], Any]) -> Future[Any]:
    """Work in a thread that does not keep the process from ending."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
