"""The sample stream in Redis: see `qednano.rl.stream.SampleStream` for what it promises.

Three keys of a run: a Redis stream of groups whose entries are numbered without gaps, a hash of every group id ever
decided, and a few counters. Whatever changes more than one of them is one script, so a client that dies, or that asks
again as the answer was lost, leaves nothing half done. The consumer's place is in its checkpoint and not in a consumer
group: Redis and a checkpoint can't be written in one transaction, and the checkpoint is what a restart goes by.

What was acknowledged to a client must survive the server: run it with appendonly yes and appendfsync always.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError, ReadOnlyError, TimeoutError
from redis.retry import Retry

from qednano.errors import ConfigError, Stopped, Unavailable
from qednano.rl.stream import Group, decode, encode

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 600.0  # without the server
_BLOCK_SECONDS = 0.2  # a stop is noticed after this
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0

# KEYS: groups, decided, counters. ARGV: group id, group
_PUBLISH = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then return known end
local number = tostring(redis.call('HINCRBY', KEYS[3], 'last', 1))
redis.call('XADD', KEYS[1], number .. '-0', 'group', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], number)
return number
"""

# ARGV: number taken, groups held. A server that lost its last writes must not give their numbers again: the consumer
# is past them and would never look at what comes under them. Returns the last number acknowledged.
_TAKE = """
redis.call('HSET', KEYS[3], 'taken', ARGV[1], 'held', ARGV[2])
if tonumber(redis.call('HGET', KEYS[3], 'last') or '0') < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[3], 'last', ARGV[1])
end
return redis.call('HGET', KEYS[3], 'acknowledged') or '0'
"""

# ARGV: number
_ACKNOWLEDGE = """
if tonumber(redis.call('HGET', KEYS[3], 'acknowledged') or '0') < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[3], 'acknowledged', ARGV[1])
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', tonumber(ARGV[1]) + 1))
return 1
"""


class RedisStream:
    """The stream of the run `name` in a Redis server. Blocking; safe to use from several threads.

    A server that is away is waited for, until `stop` is set: then whatever waits raises Stopped.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        username: str = "",
        password: str = "",
        patience: float = PATIENCE_SECONDS,
        stop: threading.Event | None = None,
    ) -> None:
        self._client: Any = redis.Redis.from_url(
            url,
            username=username or None,
            password=password or None,
            socket_timeout=30.0,
            socket_connect_timeout=5.0,
            decode_responses=False,
            # not behind our back: what a server knows after a restart has to be asked
            retry=Retry(NoBackoff(), 0),
        )
        self._where, self._patience, self._stop = url, patience, stop or threading.Event()
        # in braces: all keys of a run lie on one node of a cluster
        self._groups, self._decided, self._counters = keys = [
            f"qednano:{{{name}}}:{part}" for part in ("groups", "decided", "counters")
        ]
        scripts = {text: self._client.register_script(text) for text in (_PUBLISH, _TAKE, _ACKNOWLEDGE)}
        self._run = lambda text, *arguments: scripts[text](keys=keys, args=arguments)
        self._marked: tuple[int, int] | None = None
        self._acknowledged = 0

    # -- publisher -------------------------------------------------------------------------------------------

    def publish(self, group: Group) -> str:
        """Append the group and return its position; a group id already decided is not written again."""
        number = self._ask(lambda: self._run(_PUBLISH, group.id, encode(group)))
        return _position(int(number or 0))

    def discard(self, group_id: str) -> None:
        """Remember that this group was decided against, so a restart skips it."""
        self._ask(lambda: self._client.hsetnx(self._decided, group_id, ""))

    def decided(self) -> set[str]:
        """Ids of all groups ever published or discarded."""
        return {key.decode() for key, _ in self._ask(lambda: list(self._client.hscan_iter(self._decided, count=1000)))}

    def backlog(self) -> tuple[int, int]:
        """Groups that wait for the consumer, and those that it holds."""
        last, taken, acknowledged, held = self._ask(
            lambda: self._client.hmget(self._counters, "last", "taken", "acknowledged", "held")
        )
        return max(0, int(last or 0) - max(int(taken or 0), int(acknowledged or 0))), int(held or 0)

    # -- consumer --------------------------------------------------------------------------------------------

    def consume(
        self, after: str | None, stop: threading.Event, timeout: float | None = None, held: int = 0
    ) -> tuple[str, Group] | None:
        """The next group after `after`, in publish order; waits for it."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not stop.is_set():
                self._mark(_number(after), held)  # each time: a server may have come back with less than it knew
                if (taken := self._next(max(_number(after), self._acknowledged), deadline)) is not None:
                    self._mark(_number(taken[0]), held + 1)
                    return taken
                if deadline is not None and time.monotonic() >= deadline:
                    break
        except Stopped:
            pass
        return None

    def _next(self, number: int, deadline: float | None) -> tuple[str, Group] | None:
        """The group behind that number, once it is there; None after a moment."""
        left = _BLOCK_SECONDS if deadline is None else min(_BLOCK_SECONDS, deadline - time.monotonic())
        wait = max(1, int(1000 * left))
        found = self._ask(lambda: self._client.xread({self._groups: f"{number}-0"}, count=1, block=wait))
        if not found:
            return None
        identity, fields = found[0][1][0]
        group = decode(fields[b"group"], f"entry {identity.decode()} of {self._groups} in {self._where}")
        return _position(int(identity.split(b"-")[0])), group

    def acknowledge(self, position: str) -> None:
        """Everything up to and including `position` is in a checkpoint: forget samples, remember ids."""
        self._ask(lambda: self._run(_ACKNOWLEDGE, _number(position)))
        self._acknowledged = max(self._acknowledged, _number(position))

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    # -- the server ------------------------------------------------------------------------------------------

    def _mark(self, taken: int, held: int) -> None:
        if (taken, held) != self._marked:
            self._acknowledged = int(self._ask(lambda: self._run(_TAKE, taken, held)))
            self._marked = (taken, held)

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until the server answers; everything asked here may be asked twice."""
        began, wait = time.monotonic(), _FIRST_WAIT
        while True:
            try:
                return ask()
            except AuthenticationError as error:
                raise ConfigError(f"spec.stream.redis: {self._where} does not let us in: {error}") from None
            except (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError) as error:
                self._marked = None  # it may have come back with less than it knew
                waited = time.monotonic() - began
                if waited + wait > self._patience:
                    raise Unavailable(
                        f"Redis at {self._where} did not answer for {waited:.0f} s: {error}; look at its logs"
                    ) from None
                log.warning("Redis at %s does not answer, trying again: %s", self._where, error)
                if self._stop.wait(wait):
                    raise Stopped(f"asked to stop while Redis at {self._where} did not answer") from None
                wait = min(_LONGEST_WAIT, 2 * wait)


def _position(number: int) -> str:
    return f"{number:012d}"


def _number(position: str | None) -> int:
    return int(position) if position else 0
