"""The tiny example fits the smallest machine it is meant for."""

from pathlib import Path

from qednano.api.load import load_documents
from qednano.plan import roles

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "tiny"


def cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def test_every_run_of_the_tiny_example_fits_two_cores_beside_the_operator() -> None:
    for document in load_documents([EXAMPLES]):
        asked = sum(role.replicas * cores(role.resources.cpu) for role in roles(document.run.spec))
        assert asked <= 1.7, f"{document.run.kind} asks for {asked} cores"
