"""A finished group: its samples with grades and rewards, and whether it is published. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qednano.api.rlrun import Overlong
from qednano.grading.interface import Grade
from qednano.llm.completions import Prompt
from qednano.rl.generation import Drawn
from qednano.rl.rewards import RewardShaping, shaped_reward
from qednano.rl.stream import Sample


@dataclass(frozen=True)
class Graded:
    """One completion with its grade and what became of it: kept, ungraded or overlong. `text` is what was graded."""

    sample: Sample
    grade: Grade
    text: str
    outcome: str


@dataclass(frozen=True)
class GroupResult:
    """A finished group and its outcome: published, or why it was not. `turn` is the number of its state, from 0, and
    `summary` what that state says."""

    id: str
    problem_id: str
    outcome: str
    samples: Sequence[Graded] = ()
    turn: int = 0
    summary: str = ""


def judge(
    batch: Drawn, prompt: Prompt, grades: Sequence[Grade], texts: Sequence[str], shaping: RewardShaping
) -> list[Graded]:
    """Samples with rewards. One without a grade is left out, and one cut off by the limit under Filter."""
    judged = []
    for choice, versions, grade, text in zip(batch.choices, batch.versions, grades, texts, strict=True):
        cut = choice.finish_reason == "length"
        outcome = "kept"
        reward = 0.0
        if grade.score is None:
            outcome = "ungraded"
        else:
            reward = shaped_reward(grade.score, len(choice.token_ids), cut, shaping)
            if cut and shaping.overlong is Overlong.FILTER:
                outcome = "overlong"
        sample = Sample(
            prompt_ids=prompt.ids,
            completion_ids=choice.token_ids,
            logprobs=choice.logprobs,
            reward=reward,
            version_start=versions[0],
            version_end=versions[1],
            finish_reason=choice.finish_reason,
        )
        judged.append(Graded(sample, grade, text, outcome))
    return judged


def group_outcome(
    kept: Sequence[Sample], trainer_version: int, *, max_staleness: int, drop_zero_variance: bool = True
) -> str:
    """What to do with a group: published, too-few, zero-variance, or stale."""
    if len(kept) < 2:
        return "too-few"
    if drop_zero_variance and len({sample.reward for sample in kept}) == 1:
        return "zero-variance"
    if trainer_version - min(sample.oldest_version for sample in kept) > max_staleness:
        return "stale"
    return "published"


def window_metrics(results: Sequence[GroupResult] | deque[GroupResult], trainer_version: int) -> dict[str, float]:
    """Means over the last groups: reward of all graded samples, spread within groups, staleness, length, shares."""
    groups = [result for result in results if result.samples]
    items = [item for result in groups for item in result.samples]
    graded = [item.sample.reward for item in items if item.outcome != "ungraded"]
    if not groups or not graded:
        return {}
    spreads = []
    for result in groups:
        rewards = [item.sample.reward for item in result.samples if item.outcome == "kept"]
        if rewards:
            mean = sum(rewards) / len(rewards)
            spreads.append((sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5)
    published = [result for result in groups if result.outcome == "published"]
    stale = [max(0, trainer_version - min(i.sample.oldest_version for i in r.samples)) for r in published]
    return {
        "reward": sum(graded) / len(graded),
        "rewardStd": sum(spreads) / max(1, len(spreads)),
        "stalenessMean": sum(stale) / max(1, len(stale)),
        "responseTokens": sum(len(item.sample.completion_ids) for item in items) / len(items),
        "truncatedShare": sum(item.sample.finish_reason == "length" for item in items) / len(items),
        "zeroVarianceShare": sum(result.outcome == "zero-variance" for result in groups) / len(groups),
    }


def barren(shown: Mapping[str, float], groups: int) -> str:
    """Why nothing can be learned from so many groups, by their `window_metrics`: all went for want of variance. Empty
    when one did not."""
    if shown.get("zeroVarianceShare") != 1:
        return ""
    mean = shown["reward"]
    cause = (
        "the problems are too hard for the model" if mean < 0.2
        else "the problems are too easy for the model" if mean > 0.8
        else "the grader tells proofs of a problem apart too little, or a problem's samples are all the same"
    )  # fmt: skip
    return (
        f"in each of the last {groups} groups all samples have the same reward (mean {mean:.2f}), which teaches "
        f"nothing: {cause}. See the samples in samples/, and filter the dataset by pass rate or raise groupSize"
    )
