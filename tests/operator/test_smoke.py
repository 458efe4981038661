"""The runs of `helm test`: valid, each with a name of its own, and each waiting for the one before."""

from __future__ import annotations

from qednano_operator.smoke import objects

from qednano.api import KINDS
from qednano.api.load import explain
from qednano.plan import references


def test_the_runs_are_valid_and_follow_one_another() -> None:
    made = objects("helm-test-1", "team", "claim")
    assert [explain(KINDS[obj["kind"]], obj) for obj in made] == [[], [], []]
    names = [obj["metadata"]["name"] for obj in made]
    assert len(set(names)) == 3
    needed = [
        {(item.kind, item.name) for item in references(KINDS[obj["kind"]].spec_type().model_validate(obj["spec"]))}
        for obj in made
    ]
    assert needed == [set(), {("ProofDataset", names[0])}, {("SFTRun", names[1]), ("ProofDataset", names[0])}]
