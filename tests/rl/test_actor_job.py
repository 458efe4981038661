"""From the spec to the actor's parts: what each field of it comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from qednano_jobs.rl_actor import cache_of, config_of, curriculum_of

from qednano.api import RLRunSpec
from qednano.api.rlrun import Overlong, Turns
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError
from qednano.rl import weights
from qednano.rl.backpressure import Pace
from qednano.rl.pool import Pool
from qednano.rl.reasoning_cache import ModelSummariser, PolicySummariser
from qednano.rl.rewards import RewardShaping
from qednano.rl.rollouts import Rollouts
from tests.grading.fakes import FakeModel

ROWS = [ProblemRow(id=f"p{number}", problem="x", pass_rate=0.0 if number else None) for number in range(50)]


def spec(**more: Any) -> RLRunSpec:
    algorithm = {"maxSteps": 5, "groupSize": 4, "problemsPerStep": 3, **more.pop("algorithm", {})}
    return RLRunSpec.model_validate(
        {
            "model": {"uri": "m"},
            "dataset": {"uri": "d"},
            "algorithm": algorithm,
            "sampling": {"maxTokens": 100, "temperature": "0.8"},
            "rollout": {"maxModelLength": 200, "maxConcurrent": 7},
            "grader": {"checker": {"name": "tiny-divisibility"}},
            **more,
        }
    )


def test_pace_lengths_and_rewards_are_those_of_the_spec():
    shaped = {
        "overlong": "SoftPenalty", "overlongBuffer": 10, "overlongPenalty": "0.5", "lengthDiscount": "0.99",
        "flattenPartial": True, "maxStaleness": 2, "dropZeroVariance": False,
    }  # fmt: skip
    found = config_of(spec(algorithm=shaped, curriculum={"passScore": 3}, seed=9))
    assert found.pace == Pace(4, 3, 2, concurrent_groups=6, server_sequences=7)
    assert found.shaping == RewardShaping(Overlong.SOFT_PENALTY, 100, 10, 0.5, 0.99, True)
    assert (found.sampling.max_tokens, found.sampling.temperature, found.max_model_length) == (100, 0.8, 200)
    assert (found.drop_zero_variance, found.pass_score, found.seed, found.groups_per_visit) == (False, 3, 9, 1)
    assert config_of(spec(actor={"concurrentGroups": 50})).pace.concurrent_groups == 50


REFERENCE = {"algorithm": {"klCoefficient": "0.1"}, "sampling": {"maxTokens": 100}}


def reference(length: int) -> dict[str, Any]:
    return {"model": {"uri": "m"}, "server": {"maxModelLength": length}}


@pytest.mark.parametrize(("length", "longest"), [(200, 199), (201, 200), (500, 200)])
def test_samples_are_no_longer_than_a_served_reference_can_score(length, longest):
    """It is asked for one token behind the sample, and refuses what would then be too long."""
    assert config_of(spec(**REFERENCE, reference=reference(length))).max_model_length == longest


def test_without_a_kl_term_nobody_asks_the_reference():
    unused = spec(sampling={"maxTokens": 100}, reference=reference(200))
    assert config_of(unused).max_model_length == 200


CACHE = {
    "cycles": 2, "statesPerProblem": 1, "turns": "Last", "graded": "Joined", "maxStateAge": 3,
    "summary": {"maxTokens": 50, "temperature": "0.3", "topK": 20},
    "prompts": {"summarise": "Notes on {{ reasoning }}"},
}  # fmt: skip


def cache(tmp_path: Path, models: dict[str, Any], **more: Any):
    asked = spec(reasoningCache={**CACHE, **more})
    return cache_of(asked, config_of(asked), Rollouts(Pool(tmp_path, "rollout")), models, tmp_path)


def test_the_cache_is_what_the_spec_asks_for_and_knows_the_newest_weights(tmp_path):
    made = cache(tmp_path, {})
    assert made is not None
    found = made.config
    assert (found.cycles, found.states_per_problem, found.turns, found.joined) == (2, 1, Turns.LAST, True)
    assert (found.max_state_age, found.max_model_length, found.sampling.temperature) == (3, 200, 0.8)
    assert found.prompts.summarise == "Notes on {{ reasoning }}"
    assert config_of(spec(reasoningCache={"statesPerProblem": 3})).groups_per_visit == 3
    weights.publish(tmp_path, 4, lambda folder: (folder / "x").write_text("x"))
    assert made._version() == 4
    assert cache_of(spec(), config_of(spec()), Rollouts(Pool(tmp_path, "rollout")), {}, tmp_path) is None


def test_the_policy_or_the_model_of_the_spec_summarises(tmp_path):
    policy = cache(tmp_path, {})
    assert isinstance(policy._summariser, PolicySummariser)
    judge = FakeModel(lambda messages: "short")
    other = cache(tmp_path, {"reasoningCache/summariser": judge, "grader/rubric/model": FakeModel(lambda m: "no")})
    assert isinstance(other._summariser, ModelSummariser) and other._summariser._model is judge
    for made in (policy, other):
        assert made._summariser._params.max_tokens == 50 and made._summariser._params.top_k == 20


def test_a_prompt_that_can_not_work_is_told_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match="leaves out"):
        cache(tmp_path, {}, prompts={"proceed": "Go on."})


def test_the_order_of_problems_is_what_the_spec_asks_for(tmp_path):
    plain = curriculum_of(spec(), ROWS, tmp_path)
    assert plain.rates is None and all(plain.wanted(number) for number in range(50))
    asked = spec(curriculum={"order": "PassRate", "leastPercent": 1, "memoryPercent": 80})
    rated = curriculum_of(asked, ROWS, tmp_path)
    wanted = {rated.problem(number).id for number in range(50) if rated.wanted(number)}
    assert "p0" in wanted and len(wanted) < 10, "the dataset's rates are where it starts"
    rated.rates.update("p1", [True])
    rated.rates.save()
    assert rated.rates.get("p1") == pytest.approx(0.2)
    assert json.loads((tmp_path / "actor" / "pass-rates.json").read_text())["p1"] == pytest.approx(0.2)
    assert curriculum_of(asked, ROWS, tmp_path).rates.get("p1") == pytest.approx(0.2), "a restarted actor knows"
