"""Alerts: what should wake somebody, each with a runbook section in docs/runbooks.md."""

from __future__ import annotations

from qednano_operator import metrics as op

from qednano import metrics as m
from tools.observability.model import Alert
from tools.observability.promql import exported, series

_STEP, _TARGET = exported(m.STEP), exported(m.STEPS_TOTAL)
_RUN = "namespace, run"


def _share(part: str, whole: str, window: str) -> str:
    return f"sum by ({_RUN}) (rate({part}[{window}])) / sum by ({_RUN}) (rate({whole}[{window}]))"


def _p95(metric: str, window: str) -> str:
    return f"histogram_quantile(0.95, sum by (le, {_RUN}) (rate({metric}_bucket[{window}])))"


_REWARD = series(m.REWARD_MEAN, "")
_LENGTH = exported(m.RESPONSE_TOKENS)
_PASSES = exported(op.RECONCILES)

ALERTS = (
    Alert(
        "QedRunStalled",
        # offset: a run that has just begun has made no step either
        f"max by ({_RUN}) (changes({_STEP}[30m]) == 0 and {_STEP} < {_TARGET} and {exported(m.PAUSED)} == 0 "
        f"and {_STEP} offset 30m >= 0)",
        "5m",
        "critical",
        "{{ $labels.namespace }}/{{ $labels.run }} has made no step for 30 minutes",
        "The job answers but does not move.",
    ),
    Alert(
        "QedRunPaused",
        f"{exported(m.PAUSED)} == 1",
        "10m",
        "warning",
        "{{ $labels.namespace }}/{{ $labels.run }} waits by its own decision",
        "The job has stopped itself until something outside is mended; the run's condition Progressing says what.",
    ),
    Alert(
        "QedRewardCollapse",
        f"{_REWARD} < 0.5 * max_over_time({_REWARD}[6h]) and max_over_time({_REWARD}[6h]) > 0.1",
        "15m",
        "critical",
        "The reward of {{ $labels.namespace }}/{{ $labels.run }} has fallen to less than half of its best",
        "The policy has become worse than it was.",
    ),
    Alert(
        "QedLengthExplosion",
        f"({_p95(_LENGTH, '15m')} > 2 * {_p95(_LENGTH, '15m').replace('[15m]', '[15m] offset 2h')})",
        "15m",
        "warning",
        "Responses of {{ $labels.namespace }}/{{ $labels.run }} are twice as long as two hours ago",
        "The 95th percentile of the response length has doubled.",
    ),
    Alert(
        "QedStalenessHigh",
        f"{_p95(exported(m.STALENESS), '15m')} > 8",
        "15m",
        "warning",
        "{{ $labels.namespace }}/{{ $labels.run }} learns from samples more than 8 steps old",
        "Samples wait too long before they are learned from.",
    ),
    Alert(
        "QedGraderFailing",
        f"sum by ({_RUN}) (rate({exported(m.GRADER_FAILURES)}[15m])) > "
        f"0.1 * sum by ({_RUN}) (rate({exported(m.GRADER_SECONDS)}_count[15m]))",
        "10m",
        "critical",
        "More than one grade in ten of {{ $labels.namespace }}/{{ $labels.run }} can't be had",
        "Samples without a grade are dropped: the run gets slower, and its data may become biased.",
    ),
    Alert(
        "QedEffectiveSampleSizeLow",
        # zero is what a trainer shows that has no such weights: of an SFTRun, or before the first step
        f"{series(m.EFFECTIVE_SAMPLE_SIZE, '')} > 0 < 0.3",
        "15m",
        "warning",
        "Importance weights of {{ $labels.namespace }}/{{ $labels.run }} leave less than 30 % of the batch",
        "The behaviour policy is far from the policy that learns.",
    ),
    Alert(
        "QedWeightSyncFailing",
        f'max by ({_RUN}) ({exported(m.WEIGHT_VERSION)}{{role="trainer"}}) - '
        f'min by ({_RUN}) ({exported(m.WEIGHT_VERSION)}{{role="rollout"}}) > 5',
        "10m",
        "critical",
        "A rollout server of {{ $labels.namespace }}/{{ $labels.run }} is more than 5 versions behind",
        "Published weights do not reach a server.",
    ),
    Alert(
        "QedTrainerStarved",
        f"sum by ({_RUN}) (rate({exported(m.TRAINER_WAIT)}[30m])) > 0.5",
        "30m",
        "warning",
        "The trainer of {{ $labels.namespace }}/{{ $labels.run }} waits more than half of its time",
        "GPUs of the trainer are idle since the pool or the grader is too slow.",
    ),
    Alert(
        "QedCheckpointOld",
        # Of a trainer that was there two hours ago, in this process or one before, whether or not it has saved at all.
        f'max by ({_RUN}) ({_STEP}{{role="trainer"}} < {_TARGET}{{role="trainer"}}) '
        f'and on ({_RUN}) max by ({_RUN}) ({_STEP}{{role="trainer"}} offset 2h) '
        f"unless on ({_RUN}) (max by ({_RUN}) (max_over_time({exported(m.CHECKPOINT_TIME)}[2h])) > time() - 7200)",
        "10m",
        "warning",
        "{{ $labels.namespace }}/{{ $labels.run }} has saved no checkpoint for two hours",
        "A failure now would lose all work since then.",
    ),
    Alert(
        "QedBudgetNearlySpent",
        f"max by ({_RUN}, role) ({exported(m.LLM_BUDGET_SPENT)}) > 0.9",
        "1m",
        "warning",
        "{{ $labels.namespace }}/{{ $labels.run }} has spent more than 90 % of a budget",
        "The run stops asking when the budget is spent.",
    ),
    Alert(
        "QedOperatorErrors",
        f'sum(rate({_PASSES}{{result="error"}}[10m])) > 0.1 * sum(rate({_PASSES}[10m]))',
        "10m",
        "critical",
        "More than one reconcile in ten fails",
        "Runs are not acted upon.",
    ),
    Alert(
        "QedOperatorWithoutLeader",
        f"(sum({exported(op.LEADER)}) or vector(0)) < 1",
        "5m",
        "critical",
        "No operator leads",
        "Runs that exist go on, but nothing is started, restarted or ended.",
    ),
    Alert(
        "QedWatchStalled",
        f"sum(increase({exported(op.CORRECTIONS)}[30m])) > 0",
        "1m",
        "warning",
        "The operator's watches have missed changes",
        "A full list showed objects otherwise than the watches had told.",
    ),
    Alert(
        "QedQueueStuck",
        f"min_over_time({exported(op.QUEUE_DEPTH)}[10m]) > 0",
        "10m",
        "warning",
        "Runs have waited for the operator's workers for ten minutes",
        "The workers are too few, or the API server is too slow.",
    ),
)
