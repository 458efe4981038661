"""GPU time, goodput and cost: every second is counted once and in one place, whatever crashes in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qednano_operator.conditions import put
from qednano_operator.decision import Defaults
from qednano_operator.usage import account, after_failure

from qednano.api import ConditionType, RunStatus
from qednano.api.status import Usage
from qednano.progress import ProgressReport
from tests.operator.simulation import LABEL, Simulation

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment after the start."""
    return START + timedelta(seconds=seconds)


def running(status: RunStatus, value: bool, now: datetime) -> RunStatus:
    """The status with the condition Running, as of now."""
    return put(status, ConditionType.RUNNING, value, "PodsRun" if value else "Starting", "", 1, now)


def held(gpus: int, price: str = "") -> RunStatus:
    """A run that holds GPUs from the start and waits for its pods."""
    status = running(RunStatus(usage=Usage(gpu_price=price)), False, START)
    return account(status, gpus, START)


def usage(status: RunStatus) -> Usage:
    """Its usage, which is there."""
    assert status.usage is not None
    return status.usage


def test_time_before_all_pods_run_is_starting_time() -> None:
    status = running(account(held(4), 4, at(10)), True, at(30))
    status = account(status, 4, at(100))
    assert usage(status).gpu_seconds == 400
    assert usage(status).starting_gpu_seconds == 120
    assert usage(status).unsaved_gpu_seconds == 280
    assert usage(status).goodput == "0.700"


def test_what_a_checkpoint_holds_is_not_lost_with_the_trainer() -> None:
    status = running(held(2), True, at(0))
    status = account(status, 2, at(100), checkpointed=at(80).timestamp())
    assert usage(status).unsaved_gpu_seconds == 40
    status = after_failure(status, at(110), 70)
    assert usage(status).lost_gpu_seconds == 60 and usage(status).unsaved_gpu_seconds == 0
    assert usage(status).goodput == f"{1 - 60 / 220:.3f}"


@pytest.mark.parametrize("code", [75, None])
def test_a_trainer_that_was_asked_to_stop_has_saved(code: int | None) -> None:
    status = after_failure(account(running(held(2), True, at(0)), 2, at(100)), at(100), code)
    assert usage(status).lost_gpu_seconds == 0 and usage(status).unsaved_gpu_seconds == 0


def test_the_price_of_the_start_holds() -> None:
    status = account(held(8, price="2.50"), 8, at(3600))
    assert usage(status).gpu_cost == "20.00"
    assert usage(account(held(8), 8, at(3600))).gpu_cost == ""


def test_a_checkpoint_of_the_future_is_one_of_now() -> None:
    status = account(running(held(1), True, at(0)), 1, at(100), checkpointed=at(1e6).timestamp())
    assert usage(status).checkpointed == "2026-01-01T00:01:40Z" and usage(status).unsaved_gpu_seconds == 0


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 16)),
        st.tuples(st.just("run"), st.booleans()),
        st.tuples(st.just("save"), st.integers(-200, 50)),
        st.tuples(st.just("fail"), st.sampled_from([70, 75, None])),
        st.tuples(st.just("look"), st.just(0)),
    ),
    max_size=40,
)


@given(events=_EVENTS, gaps=st.lists(st.integers(0, 500), min_size=40, max_size=40), lost=st.sets(st.integers(0, 39)))
def test_every_second_is_counted_once_and_in_one_place(
    events: list[tuple[str, int]], gaps: list[int], lost: set[int]
) -> None:
    """``lost``: passes whose write the API server never got; the next pass starts from what was stored before."""
    stored, now, saved = held(1, price="1"), START, 0.0
    truth, holds = 0, 1
    for number, (event, value) in enumerate(events):
        now += timedelta(seconds=gaps[number])
        truth += gaps[number] * holds
        if event == "save":
            saved = max(saved, (now + timedelta(seconds=value)).timestamp())
        seen = account(stored, holds, now, saved)
        if event == "hold":
            holds = value
            seen = account(seen, holds, now, saved)
            number = -1  # a change of what is held is written by the pass that sees it, however often it is tried
        elif event == "run":
            seen = running(seen, bool(value), now)
        elif event == "fail":
            seen = after_failure(seen, now, value)
        if number not in lost:
            before, after = usage(stored), usage(seen)
            assert after.gpu_seconds >= before.gpu_seconds and after.lost_gpu_seconds >= before.lost_gpu_seconds
            stored = seen
    now += timedelta(seconds=60)
    truth += 60 * holds
    final = usage(account(stored, holds, now, saved))
    assert final.gpu_seconds == truth
    parts = final.starting_gpu_seconds + final.lost_gpu_seconds + final.unsaved_gpu_seconds
    assert 0 <= parts <= final.gpu_seconds
    assert not final.goodput or 0 <= float(final.goodput) <= 1
    assert Decimal(final.gpu_cost) == round(Decimal(truth) / 3600, 2)


def test_the_sums_of_a_run_through_a_failure_are_in_its_status() -> None:
    simulation = Simulation.of("SFTRun", trainer={"maxSteps": 1, "precision": "fp32", "resources": {"gpus": 8}})
    simulation.defaults = Defaults(gpu_hour_price=Decimal("3"))
    simulation.settle(code=None)
    assert simulation.status["usage"]["gpuPrice"] == "3"
    simulation.now += timedelta(seconds=600)
    simulation.reports = {"trainer": ProgressReport(step=3, checkpointed=simulation.now.timestamp())}
    simulation.operator()
    simulation.now += timedelta(seconds=300)
    (pod,) = simulation.pods("trainer")
    simulation.end(pod, 70)
    simulation.operator()
    assert simulation.status["attempt"] == 2 and simulation.status["usage"]["lostGpuSeconds"] == 2400
    simulation.reports = {}
    simulation.settle()
    found = simulation.status["usage"]
    assert simulation.status["phase"] == "Succeeded"
    assert found["gpuSeconds"] >= 7200 and 0 < float(found["goodput"]) < 1 - 2400 / found["gpuSeconds"] + 1e-3
    assert found["gpuCost"] == f"{Decimal(3) * found['gpuSeconds'] / 3600:.2f}"
    assert {pod["metadata"]["labels"][LABEL + "attempt"] for pod in simulation.pods("trainer")} <= {"1", "2"}
