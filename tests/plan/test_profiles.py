"""A run with its profile: whose word counts, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qednano.api import RLRunSpec
from qednano.api.profile import Profile
from qednano.errors import ConfigError
from qednano.plan import load_profiles, merged
from qednano.plan.profiles import digest

SPOT = {"key": "spot", "operator": "Exists"}
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}
PROFILE = {
    "images": {"trainer": "admin/trainer:1", "server": "admin/server:1"},
    "scheduling": {
        "queueName": "team",
        "nodeSelector": {"gpu": "h100", "zone": "a"},
        "tolerations": [TAINT],
        "runtimeClassName": "nvidia",
        "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}, {"name": "NCCL_DEBUG", "value": "WARN"}],
        "extraResources": {"rdma/hca": 1},
        "placement": {"rollout": {"nodeSelector": {"pool": "spot"}}, "evaluate": {"priorityClassName": "low"}},
    },
    "gpuHourPrice": "2.50",
}


def _spec(**own: Any) -> RLRunSpec:
    smallest = {
        "model": {"uri": "/qed/m"},
        "dataset": {"uri": "/qed/d.parquet"},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "algorithm": {"maxSteps": 1},
        "profile": "h100",
    }
    return RLRunSpec.model_validate({**smallest, **own})


def test_a_run_that_says_nothing_gets_what_the_profile_says() -> None:
    spec = merged(_spec(), Profile.model_validate(PROFILE))
    assert spec.images.trainer == "admin/trainer:1" and spec.images.worker == ""
    wish = spec.scheduling
    assert (wish.queue_name, wish.runtime_class_name) == ("team", "nvidia")
    assert wish.node_selector == {"gpu": "h100", "zone": "a"} and wish.extra_resources == {"rdma/hca": 1}
    assert list(wish.placement) == ["rollout"], "a profile serves every kind; an RLRun has no role evaluate"


def test_the_runs_own_words_go_before_the_profiles() -> None:
    own = {
        "images": {"trainer": "mine:1"},
        "scheduling": {
            "queueName": "mine",
            "nodeSelector": {"zone": "b"},
            "tolerations": [SPOT],
            "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        },
    }
    spec = merged(_spec(**own), Profile.model_validate(PROFILE))
    assert (spec.images.trainer, spec.images.server) == ("mine:1", "admin/server:1")
    wish = spec.scheduling
    assert wish.queue_name == "mine" and wish.node_selector == {"gpu": "h100", "zone": "b"}
    assert [item.key for item in wish.tolerations] == ["spot", "nvidia.com/gpu"]
    assert {item.name: item.value for item in wish.env} == {"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "INFO"}


def test_the_digest_follows_from_run_and_profile() -> None:
    profile = Profile.model_validate(PROFILE)
    first = digest(merged(_spec(), profile), profile)
    assert first == digest(merged(_spec(), profile), profile) and first.startswith("sha256:")
    dearer = Profile.model_validate({**PROFILE, "gpuHourPrice": "3"})
    assert first != digest(merged(_spec(), dearer), dearer)
    assert first != digest(merged(_spec(images={"worker": "w"}), profile), profile)


def test_what_only_together_makes_no_sense_is_said() -> None:
    profile = Profile.model_validate({"scheduling": {"extraResources": {"amd.com/gpu": 1}}})
    with pytest.raises(ConfigError, match="spec.scheduling and profile h100 don't go together: extraResources names"):
        merged(_spec(scheduling={"gpuResource": "amd.com/gpu"}), profile)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("h100: {gpuHourPrice: 2.5}", "h100.gpuHourPrice: must be a decimal in quotes"),
        ("h100: {scheduling: {env: [{name: RANK}]}}", "h100.scheduling.env.0: RANK is set by the operator"),
        ("h100: {image: x}", "h100.image: Extra inputs are not permitted"),
        ("[h100]", "is no mapping of names to profiles"),
        ("h100: {", "can't be read"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_profiles(file)
    assert complaint in str(refused.value)
