"""The unit of a metric, for the reference page: it is how the metric's name ends."""

from __future__ import annotations

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

_UNITS = {
    "bytes": "bytes",
    "checkpoint_score": "score, 0 to 1",
    "concurrency_limit": "requests",
    "cost": "money",
    "gpu_seconds": "GPU-seconds",
    "groups": "groups",
    "groups_in_flight": "groups",
    "leader": "0 or 1",
    "llm_in_flight": "requests",
    "loss": "nats a token",
    "nats": "nats",
    "paused": "0 or 1",
    "points": "points of 7",
    "queue_depth": "runs",
    "ratio": "share, 0 to 1",
    "requests": "requests",
    "reward": "reward, 0 to 1",
    "reward_mean": "reward, 0 to 1",
    "reward_std": "reward, 0 to 1",
    "rows": "rows",
    "runs": "runs",
    "runs_not_progressing": "runs",
    "samples": "samples",
    "score": "score, 0 to 1",
    "seconds": "seconds",
    "servers": "servers",
    "share": "share, 0 to 1",
    "step": "steps or items",
    "step_target": "steps or items",
    "steps": "steps",
    "timestamp_seconds": "seconds since 1970",
    "tokens": "tokens",
    "tokens_per_second": "tokens a second",
    "version": "steps",
}
PLAIN = {"qednano_train_learning_rate", "qednano_train_grad_norm", "qednano_rl_importance_ratio"}
"""Numbers without a unit; the last is a quotient of probabilities, which may be above 1."""


def unit_of(metric: MetricWrapperBase) -> str:
    """Unit of a metric's value in words, by the longest ending that is known; empty for plain numbers."""
    name: str = metric._name
    if name in PLAIN:
        return ""
    endings = sorted((end for end in _UNITS if name.endswith(f"_{end}")), key=len)
    if endings:
        return _UNITS[endings[-1]]
    return "times" if isinstance(metric, Counter) else ""
