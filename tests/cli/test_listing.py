"""What `qednano status` prints of a run, from its status alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from qednano.api import RunStatus
from qednano.errors import UsageError
from qednano.steer.interface import Listed, find
from qednano.steer.listing import lines

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def table(**status: object) -> dict[str, str]:
    """Column to text of one run, by where the header's words begin."""
    found = RunStatus.model_validate({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", **status})
    head, row = lines([Listed("RLRun", "ml", "tiny", found, "ml")], "NAMESPACE", NOW)[:2]
    starts = [(name, head.index(name)) for name in head.split()]
    ends = [start for _, start in starts[1:]] + [None]
    return {name: row[start:end].strip() for (name, start), end in zip(starts, ends, strict=True)}


def test_goodput_and_money_of_gpus_and_endpoints_are_shown() -> None:
    usage = {"gpuSeconds": 3600, "goodput": "0.912", "gpuCost": "20.00", "gpuPrice": "2.50", "cost": "1.234"}
    shown = table(usage=usage)
    assert (shown["GOODPUT"], shown["COST"], shown["TIME"]) == ("91 %", "21.23", "1h00m")


@pytest.mark.parametrize("usage", [{}, {"cost": "0.000000", "goodput": "", "gpuCost": ""}])
def test_columns_without_a_value_are_left_out(usage: dict[str, str]) -> None:
    assert not {"GOODPUT", "COST", "ETA", "RESTARTS"} & set(table(usage=usage))


def test_less_than_a_cent_is_not_nothing() -> None:
    assert table(usage={"cost": "0.0004"})["COST"] == "0.0004"


def test_a_run_that_stands_still_says_so_and_promises_no_end() -> None:
    """A condition of an earlier phase counts no more."""
    still = {
        "type": "Progressing",
        "status": "False",
        "reason": "Stalled",
        "message": "nothing for 120 s, at step 19",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"conditions": [still], "progress": {"step": 19, "total": 70, "etaSeconds": 800}}
    runs = [
        Listed("RLRun", "ml", name, RunStatus.model_validate({"phase": phase, **status}), "ml")
        for name, phase in (("still", "Running"), ("again", "Restarting"))
    ]
    head, first, second, *messages = lines(runs, "NAMESPACE", NOW)
    assert messages == ["ml/RLRun/still: Stalled: nothing for 120 s, at step 19"]
    assert "13m20s" not in first and "13m20s" in second


class Many:
    """So many runs, run-0 the oldest."""

    about = "under qed-runs"

    def __init__(self, count: int) -> None:
        self._count = count

    def runs(self) -> list[Listed]:
        return [Listed("RLRun", "default", f"run-{number}", None, "") for number in range(self._count)]


def test_a_name_that_none_has_is_answered_with_those_that_may_be_meant() -> None:
    with pytest.raises(UsageError) as few:
        find(Many(2), "rum-1")
    assert str(few.value).endswith("its runs are: RLRun/run-0, RLRun/run-1")
    with pytest.raises(UsageError) as many:
        find(Many(200), "run-17x")
    named = str(many.value).partition("its runs are: ")[2]
    assert "RLRun/run-17, " in named and named.count("RLRun/") == 10 and "190 more" in named
    assert "RLRun/run-199" in named
    with pytest.raises(UsageError, match="no run is there at all: is another --root"):
        find(Many(0), "run")
