"""The planner: roles of each kind, references and where they lead, and what each exit code means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qednano.api import EvalRunSpec, ProofDatasetSpec, RLRunSpec, SFTRunSpec
from qednano.api.common import Restart
from qednano.api.rlrun import SampleStream
from qednano.plan import Action, Lifecycle, Reference, backoff_seconds, classify, literal_inputs, locate, references
from qednano.plan.roles import roles

CHECKER = {"checker": {"name": "tiny-divisibility"}}
SFT = SFTRunSpec.model_validate(
    {
        "model": {"init": {}},
        "dataset": {"proofDataset": {"name": "tiny", "split": "sft"}},
        "trainer": {"maxSteps": 1, "nodes": 2, "processes": 4, "resources": {"gpus": 4}},
    }
)
RL = RLRunSpec.model_validate(
    {
        "model": {"sftRun": {"name": "tiny-sft"}},
        "dataset": {"uri": "/data/problems.parquet"},
        "algorithm": {"maxSteps": 1},
        "rollout": {"replicas": 3, "resources": {"gpus": 1}},
        "grader": CHECKER,
    }
)
EVAL = EvalRunSpec.model_validate(
    {
        "model": {"rlRun": {"name": "tiny-rl"}},
        "baselines": [
            {"name": "untrained", "model": {"sftRun": {"name": "tiny-sft", "checkpoint": "Initial"}}},
            {"name": "hub", "model": {"uri": "hf://a/b"}},
        ],
        "benchmark": {"proofDataset": {"name": "tiny", "split": "heldout"}},
        "grader": CHECKER,
    }
)


def test_a_multi_node_trainer_is_one_gang() -> None:
    (trainer,) = roles(SFT)
    assert trainer.gang and trainer.distributed and trainer.essential
    assert (trainer.replicas, trainer.processes, trainer.world_size, trainer.gpus) == (2, 4, 8, 8)


def test_an_rl_run_ends_with_its_trainer() -> None:
    found = {role.name: role for role in roles(RL)}
    assert set(found) == {"rollout", "trainer", "actor"}
    assert [name for name, role in found.items() if role.essential] == ["trainer"]
    assert found["rollout"].lifecycle is Lifecycle.SERVER
    assert found["rollout"].gpus == 3


def test_a_redis_of_the_runs_own_is_a_role_and_one_elsewhere_is_not() -> None:
    own, elsewhere = (
        RL.model_copy(update={"stream": SampleStream.model_validate({"redis": redis})})
        for redis in ({"resources": {"memory": "4Gi"}}, {"url": "redis://redis:6379/0"})
    )
    stream = roles(own)[0]
    assert (stream.name, stream.lifecycle, stream.replicas, stream.essential) == ("stream", Lifecycle.SERVER, 1, False)
    assert stream.resources.memory == "4Gi"
    assert "stream" not in {role.name for role in roles(elsewhere)}
    with pytest.raises(ValueError, match="the run's own makes its password"):
        SampleStream.model_validate({"redis": {"password": {"name": "redis", "key": "password"}}})


@pytest.mark.parametrize("spec", [SFT, RL, EVAL])
def test_every_run_has_an_essential_role(spec: SFTRunSpec | RLRunSpec | EvalRunSpec) -> None:
    assert any(role.essential for role in roles(spec))
    assert len({role.name for role in roles(spec)}) == len(roles(spec))


def test_a_dataset_refers_to_nothing() -> None:
    spec = ProofDatasetSpec.model_validate(
        {
            "sources": [{"name": "tiny", "generator": {"name": "tiny-divisibility"}}],
            "splits": [{"name": "train", "problems": 1}],
        }
    )
    assert references(spec) == ()
    assert [role.name for role in roles(spec)] == ["dataset"]


def test_references_and_literals_cover_each_input_once() -> None:
    assert references(EVAL) == (
        Reference("model", "RLRun", "tiny-rl", "model"),
        Reference("baselines/0", "SFTRun", "tiny-sft", "initial"),
        Reference("benchmark", "ProofDataset", "tiny", "split/heldout"),
    )
    assert literal_inputs(EVAL) == {"baselines/1": "hf://a/b"}
    assert literal_inputs(RL) == {"dataset": "/data/problems.parquet"}


def test_an_sft_run_waits_for_each_dataset_of_its_mixture_and_for_its_validation_rows() -> None:
    def split(name: str) -> dict[str, object]:
        return {"proofDataset": {"name": name}}

    spec = SFTRunSpec.model_validate(
        {
            "model": {"init": {}},
            "dataset": split("a"),
            "mixture": [{"dataset": split("b")}, {"dataset": {"uri": "/c.jsonl"}, "weight": "2"}],
            "validation": {"dataset": split("d")},
            "trainer": {"epochs": 2},
        }
    )
    assert [(item.field, item.name) for item in references(spec)] == [
        ("dataset", "a"), ("mixture/0/dataset", "b"), ("validation/dataset", "d"),
    ]  # fmt: skip
    assert literal_inputs(spec) == {"mixture/1/dataset": "/c.jsonl"}


def test_a_reference_leads_to_its_part_of_the_artifact() -> None:
    model, initial, split = references(EVAL)
    assert locate(model, "/qed/a/rlrun/x/artifact") == "/qed/a/rlrun/x/artifact/model"
    assert locate(initial, "/qed/a/sftrun/x/artifact") == "/qed/a/sftrun/x/initial"
    assert locate(split, "/qed/a/proofdataset/x/artifact") == "/qed/a/proofdataset/x/artifact/heldout.parquet"


@pytest.mark.parametrize(
    ("code", "action", "counted"),
    [
        (0, Action.COMPLETE, False),
        (64, Action.FAIL, False),
        (65, Action.FAIL, False),
        (66, Action.FAIL, False),
        (78, Action.FAIL, False),
        (69, Action.RESTART, True),
        (1, Action.RESTART, True),
        (74, Action.IGNORE, False),
        (75, Action.RESUME, False),
        (143, Action.RESUME, False),
        (-15, Action.RESUME, False),
        (-9, Action.RESTART, True),
    ],
)
def test_exit_codes(code: int, action: Action, counted: bool) -> None:
    verdict = classify(code)
    assert (verdict.action, verdict.counted) == (action, counted)


def test_disruptions_do_not_count_but_bad_configuration_stays_final() -> None:
    assert not classify(137, disrupted=True).counted
    assert classify(78, disrupted=True).action is Action.FAIL
    assert classify(137, out_of_memory=True).reason == "OutOfMemory"


@given(st.integers(0, 200), st.integers(0, 3600), st.integers(0, 86400))
def test_back_off_grows_and_is_bounded(restarts: int, first: int, most: int) -> None:
    policy = Restart(backoff_seconds=first, max_backoff_seconds=most)
    wait = backoff_seconds(policy, restarts)
    assert 0 <= wait <= most
    assert wait <= backoff_seconds(policy, restarts + 1)
