"""How far the actor may run ahead of the trainer, so that what it makes is still fresh when it is learned from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """What bounds the work ahead: groups and samples, staleness in optimizer steps."""

    group_size: int
    problems_per_step: int
    max_staleness: int
    concurrent_groups: int
    server_sequences: int


@dataclass(frozen=True)
class Ahead:
    """What is on its way to the trainer, and what it is made with.

    `servers` are those new enough to be asked; `lag` is how many versions the oldest of them is behind the trainer.
    `walking` of the groups in flight have no state yet to be drawn from: a reasoning cache makes it, turn by turn.
    """

    in_flight: int
    queued: int
    held: int
    servers: int
    lag: int = 0
    walking: int = 0


def decodable(servers: int, pace: Pace) -> int:
    """How many groups the servers decode at once."""
    return max(1, servers * pace.server_sequences // pace.group_size)


def room(ahead: Ahead, pace: Pace) -> int:
    """How many groups may be started now.

    A group started now is learned from after all those ahead of it; each `problems_per_step` of them is one more
    optimizer step between the weights it is drawn with and those that learn from it, and the lag of its server comes on
    top. So no more are ahead than `max_staleness` allows, nor than keep the trainer busy: the step under way and the
    next one. Nor is more started than the servers can decode at once: it would wait there and age. Groups whose state
    is being made hardly count among those: without others beside them the servers would be mostly idle.
    """
    step = pace.problems_per_step
    fresh = step * max(0, pace.max_staleness + 1 - ahead.lag)
    allowed = min(fresh, max(2 * step, pace.concurrent_groups))
    total = ahead.in_flight + ahead.queued + ahead.held
    drawn = ahead.in_flight - ahead.walking
    at_once = decodable(ahead.servers, pace) - drawn
    return max(0, min(allowed - total, pace.concurrent_groups - ahead.in_flight, at_once))
