"""The queue, the lease, progress bounds, the cache and the status patch, each alone."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qednano_operator import lease as lease_module
from qednano_operator.cache import Cache, compact
from qednano_operator.kube import Conflict, NotFound, Throttled
from qednano_operator.lease import Lease
from qednano_operator.observe import last_words, parse_time
from qednano_operator.progress import bounded
from qednano_operator.queue import KeyedQueue
from qednano_operator.settings import parse
from qednano_operator.status import difference

from qednano.progress import ProgressReport, parse_report

# queue


async def _drain(queue: KeyedQueue[str], done: asyncio.Event) -> None:
    task = asyncio.create_task(queue.run())
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()


async def test_a_key_is_never_handled_twice_at_once_and_a_change_meanwhile_is_not_lost() -> None:
    running, overlaps, handled, done = 0, 0, [], asyncio.Event()

    async def handle(key: str) -> None:
        nonlocal running, overlaps
        running += 1
        overlaps = max(overlaps, running)
        if not handled:
            queue.add(key)  # something changes while the first pass runs
            queue.add(key)
        await asyncio.sleep(0)
        handled.append(key)
        running -= 1
        if len(handled) == 2:
            done.set()

    queue: KeyedQueue[str] = KeyedQueue(handle, workers=4)
    for _ in range(5):
        queue.add("a")
    await _drain(queue, done)
    assert handled == ["a", "a"] and overlaps == 1


async def test_a_failing_key_is_tried_again_and_holds_nobody_up() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def handle(key: str) -> None:
        seen.append(key)
        if key == "bad" and seen.count("bad") < 3:
            raise Throttled("slow down", 0.01)
        if seen.count("bad") == 3:
            done.set()

    queue: KeyedQueue[str] = KeyedQueue(handle, workers=1)
    queue.add("bad")
    queue.add("good")
    await _drain(queue, done)
    assert seen[:2] == ["bad", "good"] and seen.count("bad") == 3


async def test_a_queue_that_finishes_lets_its_workers_end_and_hands_out_nothing_more() -> None:
    gate, handled = asyncio.Event(), []

    async def handle(key: str) -> None:
        await gate.wait()
        handled.append(key)

    queue: KeyedQueue[str] = KeyedQueue(handle, workers=1)
    task = asyncio.create_task(queue.run())
    for key in ("a", "b"):
        queue.add(key)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    started = time.monotonic()
    await queue.finish(0.05)  # a worker that hangs is not waited for
    assert time.monotonic() - started < 5 and not handled
    finishing = asyncio.create_task(queue.finish(5))
    gate.set()
    await finishing
    assert handled == ["a"]
    queue.add("c")
    await asyncio.sleep(0.02)
    assert handled == ["a"]
    task.cancel()


async def test_the_earlier_of_two_dates_stands() -> None:
    started, done = time.monotonic(), asyncio.Event()
    times: list[float] = []

    async def handle(key: str) -> None:
        times.append(time.monotonic() - started)
        done.set()

    queue: KeyedQueue[str] = KeyedQueue(handle)
    queue.add_after("a", 30)
    queue.add_after("a", 0.05)
    queue.add_after("a", 60)
    await _drain(queue, done)
    assert 0.05 <= times[0] < 5


# lease


class _Leases:
    """One Lease, kept as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        if self.lease is None:
            raise NotFound("no lease")
        return self.lease

    async def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise Conflict("exists")
        return self._store(obj)

    async def replace(self, obj: dict[str, Any]) -> dict[str, Any]:
        assert self.lease is not None
        if obj["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("changed")
        return self._store(obj)

    def _store(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        return self.lease


def _lease(kube: Any, identity: str) -> Lease:
    return Lease(kube, "ns", "op", identity)


async def _leads(lease: Lease, seconds: float = 0.1) -> bool:
    try:
        await asyncio.wait_for(lease.acquire(), seconds)
    except TimeoutError:
        return False
    return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY", 0.02)
    monkeypatch.setattr(lease_module, "RENEW_DEADLINE", 0.1)


async def test_one_leads_at_a_time_and_a_released_lease_is_free_at_once(quick: None) -> None:
    kube = _Leases()
    first, second = _lease(kube, "a"), _lease(kube, "b")
    assert await _leads(first)
    assert not await _leads(second)
    await first.release()
    assert await _leads(second)
    assert kube.lease is not None and kube.lease["spec"]["leaseTransitions"] == 1


async def test_a_dead_leader_is_replaced_when_its_record_stands_still(quick: None) -> None:
    kube = _Leases()
    assert await _leads(_lease(kube, "dead"))
    assert kube.lease is not None
    kube.lease["spec"]["leaseDurationSeconds"] = 0.2
    kube.lease["spec"]["renewTime"] = "2099-01-01T00:00:00.000000Z"  # a clock that runs ahead changes nothing
    heir = _lease(kube, "heir")
    assert not await _leads(heir, 0.1)
    assert await _leads(heir, 2)


async def test_a_leader_that_can_not_renew_stops_acting(quick: None) -> None:
    kube = _Leases()
    lease = _lease(kube, "a")
    assert await _leads(lease)

    async def broken(*_: Any) -> dict[str, Any]:
        raise Throttled("no", 1)

    kube.get = kube.replace = broken  # type: ignore[method-assign]
    await asyncio.wait_for(lease.keep(), 5)
    assert lease.lost.is_set()


async def test_a_leader_that_was_overtaken_stops_acting(quick: None) -> None:
    kube = _Leases()
    lease = _lease(kube, "a")
    assert await _leads(lease)
    assert kube.lease is not None
    kube._store({**kube.lease, "spec": {**kube.lease["spec"], "holderIdentity": "b"}})
    await asyncio.wait_for(lease.keep(), 5)
    assert lease.lost.is_set()


# progress


@settings(deadline=None)
@given(
    st.builds(
        ProgressReport,
        stage=st.text(max_size=200),
        step=st.integers(),
        total=st.none() | st.integers(),
        unit=st.text(max_size=200),
        rate=st.none() | st.floats(),
        eta_seconds=st.none() | st.floats(),
        metrics=st.dictionaries(st.text(max_size=80), st.floats(), max_size=50),
        message=st.text(max_size=900),
        updated=st.floats(),
    )
)
def test_whatever_a_pod_reports_is_bounded(report: ProgressReport) -> None:
    found = bounded(report, 1e9)
    assert 0 <= found.step <= 10**12 and (found.total is None or 0 <= found.total <= 10**12)
    numbers = [*found.metrics.values(), found.updated, found.rate or 0.0, found.eta_seconds or 0.0]
    assert all(math.isfinite(number) for number in numbers)
    assert len(found.metrics) <= 48 and 0 <= found.updated <= 1e9 + 60
    assert len(found.stage) <= 64 and len(found.unit) <= 64 and len(found.message) <= 512


# cache


def _run(name: str, version: int, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version)}
    return compact("SFTRun", {"metadata": meta, "spec": spec})


def test_what_is_nested_too_deeply_is_refused_like_any_other_nonsense() -> None:
    """A pod chooses these bytes; an error that nobody expects would end the operator for everybody."""
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_report(b"[" * 60_000)
    assert last_words("[" * 4096).message


def test_a_time_without_a_zone_is_none() -> None:
    """It could not be compared with the others."""
    assert parse_time("2026-01-01T00:00:00") is None and parse_time("2026-01-01") is None


def test_an_echo_of_the_past_does_not_undo_our_own_write() -> None:
    cache = Cache()
    cache.put(_run("a", 7, seed=7))
    cache.put(_run("a", 5, seed=5))
    run = cache.run(("SFTRun", "ns", "a"))
    assert run is not None and run["spec"] == {"seed": 7}


def test_a_change_of_a_run_concerns_those_that_refer_to_it() -> None:
    cache = Cache()
    waiting = ("SFTRun", "ns", "b")
    cache.put(_run("b", 1, model={"sftRun": {"name": "a"}}))
    assert waiting in cache.put(_run("a", 2))
    assert waiting in cache.remove(_run("a", 3))
    cache.put(_run("b", 4, model={"uri": "/m"}))
    assert waiting not in cache.put(_run("a", 5))


def test_a_lost_deletion_is_found_by_a_full_list() -> None:
    cache = Cache()
    cache.put({**_run("a", 1), "seen": 1.0})
    cache.put({**_run("b", 2), "seen": 1.0})
    newer, gone = cache.compare("SFTRun", [{**_run("b", 2), "seen": 2.0}], listed_at=2.0)
    assert not newer and [obj["metadata"]["name"] for obj in gone] == ["a"] and cache.holds(gone[0])


def test_an_object_made_during_the_list_is_not_taken_for_deleted() -> None:
    cache = Cache()
    cache.put({**_run("new", 9), "seen": 3.0})
    assert cache.compare("SFTRun", [], listed_at=2.0) == ([], [])


def test_a_list_shows_what_a_dead_watch_did_not_tell() -> None:
    cache = Cache()
    cache.put({**_run("a", 1), "seen": 1.0})
    newer, gone = cache.compare("SFTRun", [_run("a", 5), _run("b", 2)], listed_at=2.0)
    assert [obj["metadata"]["name"] for obj in newer] == ["a", "b"] and not gone


# status


_JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.sampled_from("abcd"), _JSON, max_size=4)


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396, as the API server does it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


@settings(deadline=None)
@given(_OBJECTS, _OBJECTS)
def test_a_patch_leads_from_the_old_status_to_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    patch = difference(old, new)
    assert _merge(old, patch) == new
    assert (patch == {}) == (old == new)


# settings


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QED_OPERATOR_NAMESPACES", "a, b")
    monkeypatch.setenv("QED_OPERATOR_PORT", "1234")
    found = parse(["--port=99", "--server-image=s:1"])
    assert found.namespaces == ("a", "b") and found.port == 99 and found.defaults.images["server"] == "s:1"


def test_a_port_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--port=http"])
    assert "--port is 'http'" in capsys.readouterr().err
