"""What a change of code and a small operator cost: the sizes of the layers as they were built."""

from __future__ import annotations

import pytest

from tools.cluster.__main__ import Cluster
from tools.cluster.images import BASE_IMAGE, NAMES, builder, reference
from tools.cluster.native import NativeCluster
from tools.cluster.paths import cache

pytestmark = pytest.mark.e2e

MB = 1_000_000


def layers(name: str) -> dict[str, int]:
    """Sizes of an image's layers, in bytes and order."""
    return builder(cache()).stored(name).layers


@pytest.fixture(autouse=True)
def built_here(cluster: Cluster, operator: None) -> None:
    """Images lie in this machine's store only for the one-node cluster."""
    if not isinstance(cluster, NativeCluster):
        pytest.skip("needs a machine that runs the one-node cluster: others keep the images in their own registry")


def test_the_operator_adds_little_to_its_base() -> None:
    base = layers(BASE_IMAGE)
    assert sum(size for layer, size in layers(reference("operator")).items() if layer not in base) <= 250 * MB


@pytest.mark.parametrize("name", NAMES)
def test_a_change_of_code_uploads_one_small_layer(name: str) -> None:
    assert list(layers(reference(name)).values())[-1] <= 20 * MB


def test_trainer_and_server_share_the_layer_of_torch() -> None:
    trainer, server = layers(reference("trainer")), layers(reference("server"))
    assert max(size for layer, size in trainer.items() if layer in server) >= 500 * MB
