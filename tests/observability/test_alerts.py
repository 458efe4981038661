"""Each alert fires when it should and keeps still when it should not, by promtool on the generated rules."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.cluster.debian import require
from tools.observability.alerts import ALERTS
from tools.observability.prometheus import RULES

RUN = 'namespace="team",run="rl"'


@dataclass(frozen=True)
class Story:
    """Series, one value a minute, in promtool's notation; and when to look, in minutes."""

    series: dict[str, str]
    at: int


def _histogram(name: str, before: str, after: str, buckets: tuple[str, ...]) -> dict[str, str]:
    """A histogram all of whose observations fall above ``before`` and at most into ``after``."""
    found, low = {}, True
    for bucket in buckets:
        if bucket == after:
            low = False
        found[f'{name}_bucket{{{RUN},le="{bucket}"}}'] = before if low else "0+60x400"
    return found


LENGTHS = ("512", "1024", "4096", "+Inf")


def _length(early: str, late: str) -> dict[str, str]:
    """95 % of the responses are about ``early`` tokens for two hours and about ``late`` after that."""
    found = {}
    for bucket in LENGTHS:
        order = LENGTHS.index
        first = 60 if order(bucket) >= order(early) else 0
        second = 60 if order(bucket) >= order(late) else 0
        found[f'qednano_rl_response_tokens_bucket{{{RUN},le="{bucket}"}}'] = (
            f"0+{first}x120 {120 * first + second}+{second}x60"
        )
    return found


def _step(values: str) -> dict[str, str]:
    return {
        f'qednano_step{{{RUN},role="trainer"}}': values,
        f'qednano_step_target{{{RUN},role="trainer"}}': "100+0x400",
        f'qednano_paused{{{RUN},role="trainer"}}': "0+0x400",
    }


def _saved(every: int) -> dict[str, str]:
    """A checkpoint is written every so many minutes."""
    times = " ".join(str(60 * (minute // every * every)) for minute in range(200))
    return {f'qednano_checkpoint_timestamp_seconds{{{RUN},role="trainer"}}': times, **_step("0+1x90 91+0x400")}


def _gauge(name: str, value: str, extra: str = "") -> dict[str, str]:
    return {f"{name}{{{RUN}{extra}}}": f"{value}+0x400"}


def _versions(trainer: str, rollout: str) -> dict[str, str]:
    return {
        f'qednano_weight_version{{{RUN},role="trainer"}}': trainer,
        f'qednano_weight_version{{{RUN},role="rollout"}}': rollout,
    }


def _grades(failed: int) -> dict[str, str]:
    return {
        f'qednano_grader_failures_total{{{RUN},reason="Timeout"}}': f"0+{failed}x400",
        f"qednano_grader_seconds_count{{{RUN}}}": "0+60x400",
    }


STORIES: dict[str, tuple[Story, Story]] = {  # alert: (fires, keeps still)
    "QedRunStalled": (Story(_step("0+1x20 20+0x100"), 60), Story(_step("0+1x90"), 60)),
    "QedRunPaused": (
        Story(_gauge("qednano_paused", "1", ',role="actor"'), 20),
        Story(_gauge("qednano_paused", "0", ',role="actor"'), 20),
    ),
    "QedRewardCollapse": (
        Story({f'qednano_rl_reward_mean{{{RUN},role="actor"}}': "0.8+0x60 0.2+0x60"}, 90),
        Story({f'qednano_rl_reward_mean{{{RUN},role="actor"}}': "0.8+0x60 0.6+0x60"}, 90),
    ),
    "QedLengthExplosion": (Story(_length("512", "4096"), 170), Story(_length("512", "512"), 170)),
    "QedStalenessHigh": (
        Story(_histogram("qednano_rl_staleness_steps", "0+0x400", "16", ("4", "8", "16", "+Inf")), 60),
        Story(_histogram("qednano_rl_staleness_steps", "0+0x400", "4", ("2", "4", "8", "+Inf")), 60),
    ),
    "QedGraderFailing": (Story(_grades(12), 60), Story(_grades(2), 60)),
    "QedEffectiveSampleSizeLow": (
        Story(_gauge("qednano_rl_effective_sample_ratio", "0.2", ',role="trainer"'), 60),
        Story(_gauge("qednano_rl_effective_sample_ratio", "0", ',role="actor"'), 60),  # never set: not its metric
    ),
    "QedWeightSyncFailing": (
        Story(_versions("0+1x400", "0+0x400"), 60),
        Story(_versions("1+1x400", "0+1x400"), 60),
    ),
    "QedTrainerStarved": (
        Story({f"qednano_rl_trainer_wait_seconds_total{{{RUN}}}": "0+45x400"}, 90),
        Story({f"qednano_rl_trainer_wait_seconds_total{{{RUN}}}": "0+6x400"}, 90),
    ),
    "QedCheckpointOld": (Story(_saved(1000), 180), Story(_saved(30), 180)),
    "QedBudgetNearlySpent": (
        Story(_gauge("qednano_llm_budget_spent_ratio", "0.95", ',role="teacher"'), 20),
        Story(_gauge("qednano_llm_budget_spent_ratio", "0.5", ',role="teacher"'), 20),
    ),
    "QedOperatorErrors": (
        Story(
            {
                'qednano_operator_reconciles_total{kind="RLRun",result="error"}': "0+6x100",
                'qednano_operator_reconciles_total{kind="RLRun",result="ok"}': "0+6x100",
            },
            40,
        ),
        Story(
            {
                'qednano_operator_reconciles_total{kind="RLRun",result="error"}': "0+0x100",
                'qednano_operator_reconciles_total{kind="RLRun",result="ok"}': "0+6x100",
            },
            40,
        ),
    ),
    "QedOperatorWithoutLeader": (
        Story({'qednano_operator_leader{pod="a"}': "0+0x60", 'qednano_operator_leader{pod="b"}': "0+0x60"}, 30),
        Story({'qednano_operator_leader{pod="a"}': "1+0x60", 'qednano_operator_leader{pod="b"}': "0+0x60"}, 30),
    ),
    "QedWatchStalled": (
        Story({"qednano_operator_resync_corrections_total": "0+0x20 3+0x20"}, 25),
        Story({"qednano_operator_resync_corrections_total": "0+0x60"}, 25),
    ),
    "QedQueueStuck": (
        Story({"qednano_operator_queue_depth": "5+0x60"}, 30),
        Story({"qednano_operator_queue_depth": "5+0x5 0+0x5 5+0x5 0+0x60"}, 30),
    ),
}


FIRES = {  # more stories in which an alert fires
    "QedCheckpointOld: never saved": Story(_step("0+1x90 91+0x400"), 180),
    "QedCheckpointOld: started anew a while ago, the last one older": Story(
        {f'qednano_checkpoint_timestamp_seconds{{{RUN},role="trainer"}}': "60 60 _x300", **_step("0+1x90 91+0x400")},
        180,
    ),
}

STILL = {  # more stories in which an alert keeps still
    "QedRunStalled: begun 25 minutes ago, and loads a model": Story(_step("_x40 0+0x100"), 65),
    "QedRunStalled: at its end": Story(_step("0+10x10 100+0x100"), 60),
    "QedEffectiveSampleSizeLow: a trainer without such weights": Story(
        _gauge("qednano_rl_effective_sample_ratio", "0", ',role="trainer"'), 60
    ),
    "QedCheckpointOld: begun less than two hours ago": Story(_step("_x70 0+1x90 91+0x400"), 180),
    "QedCheckpointOld: at its end": Story(_step("0+1x100 100+0x400"), 180),
    "QedRunStalled: gone": Story(_step("0+1x20 _x100"), 60),
}


def _case(name: str, story: Story, fires: bool) -> dict[str, Any]:
    rule = next(rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"] if rule["alert"] == name)
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in story.series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{story.at}m",
                "exp_samples": [{"labels": "{}", "value": 1 if fires else 0}],
            }
        ],
        "name": f"{name} {'fires' if fires else 'keeps still'}: {rule['expr']}",
    }


@pytest.fixture(scope="module", autouse=True)
def promtool() -> None:
    if shutil.which("promtool") is None:
        require(["prometheus"], purpose="the tests of alerts")


def test_every_alert_has_a_story_of_both_ends() -> None:
    assert set(STORIES) == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("name", STORIES)
def test_the_alert_fires_and_keeps_still(name: str, tmp_path: Path) -> None:
    fires, still = STORIES[name]
    file = tmp_path / "test.yaml"
    others = [story for what, story in STILL.items() if what.startswith(f"{name}:")]
    more = [story for what, story in FIRES.items() if what.startswith(f"{name}:")]
    cases = [
        *(_case(name, story, True) for story in (fires, *more)),
        *(_case(name, story, False) for story in (still, *others)),
    ]
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_pass_promtools_check() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook() -> None:
    text = (RULES.parents[3] / "docs" / "runbooks.md").read_text()
    headings = {line.removeprefix("## ").strip() for line in text.splitlines() if line.startswith("## ")}
    assert {alert.name for alert in ALERTS} <= headings
