"""The reference policy: the model that a run starts from, loaded again or found below the adapters."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from qednano.rl.losses import LossConfig
from qednano.rl.reference_policy import BelowAdapters, ReferencePolicy, reference_policy
from qednano.rl.trainer import FIELDS, PolicyLoss
from qednano.training.packing import Document, collate
from tests.training.engine_steps import run_step, step_documents, variant_engine


def session(model_folder, variant: str) -> SimpleNamespace:
    engine = variant_engine(model_folder, variant)
    return SimpleNamespace(engine=engine, model_folder=model_folder, trainer=SimpleNamespace(attention="Auto"))


def samples() -> list[Document]:
    """Documents as of a step of RL: behaviour log-probs, and an advantage for every other one."""
    return [
        Document(
            document.tokens,
            document.weights,
            {"behaviour": [-1.0] * len(document.tokens), "advantage": [float(number % 2)] * len(document.tokens)},
            index=number,
        )
        for number, document in enumerate(step_documents(7))
    ]


def test_below_the_adapters_is_the_model_that_the_run_started_from(model_folder):
    trained = session(model_folder, "0:fp32:lora")
    for step in range(3):
        run_step(trained.engine, step_documents(step))
    batch = collate(step_documents(9))
    below = reference_policy(trained)
    assert isinstance(below, BelowAdapters)
    assert torch.allclose(below(batch), ReferencePolicy(trained)(batch), atol=1e-6)
    own, _ = trained.engine.logprobs(batch)
    assert (own - below(batch)).abs().max() > 0.01, "the adapters are there again, and have learned"


def test_steps_are_the_same_whichever_way_the_reference_is_had(model_folder):
    """With ZeRO 3, whose hooks must bear a second forward pass between a micro-batch's forward and backward ones."""
    weights = []
    for kind in (BelowAdapters, ReferencePolicy):
        trained = session(model_folder, "3:fp32:lora")
        for _ in range(3):
            loss = PolicyLoss(LossConfig(kl="k3", kl_weight=1.0), kind(trained))
            batches = trained.engine.micro_batches(samples(), FIELDS, sequence_length=64, micro_batch_tokens=128)
            sums = trained.engine.train_step(batches, loss).sums
        assert sums["referenceKl"] > 0
        weights.append(trained.engine.weights())
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])


def test_without_adapters_the_model_is_loaded_again(model_folder):
    assert isinstance(reference_policy(session(model_folder, "0:fp32")), ReferencePolicy)
