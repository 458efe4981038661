"""The reference policy of the KL term where the trainer computes it: the model that the run starts from, frozen.

With adapters that model is in the trainer anyway, below them; without, it is loaded a second time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qednano.training.lora import without_adapters
from qednano.training.model import PolicyOptions, load_policy
from qednano.training.packing import MicroBatch
from qednano.training.session import Session

ReferenceLogprobs = Callable[[MicroBatch], Tensor]
"""A micro-batch to the log-probs [N] of its targets."""


def reference_policy(session: Session) -> ReferenceLogprobs:
    """The model that the session started from."""
    return BelowAdapters(session) if session.engine.policy.lora else ReferencePolicy(session)


class ReferencePolicy:
    """Log-probs of given tokens under the model that the session started from. Each rank holds all of it."""

    def __init__(self, session: Session) -> None:
        engine = session.engine
        dtype = torch.bfloat16 if engine.config.precision == "bf16" else torch.float32
        options = PolicyOptions(attention=str(session.trainer.attention), sequence=engine.sequence)
        policy = load_policy(session.model_folder, dtype=dtype, options=options)
        self._policy = policy.eval().requires_grad_(False).to(engine.device)
        self._temperature = engine.config.temperature

    @torch.no_grad()
    def __call__(self, batch: MicroBatch) -> Tensor:
        """Log-probs [N] of the batch's targets, at the temperature of sampling."""
        logprobs: Tensor = self._policy(batch, self._temperature)[0]
        return logprobs


class BelowAdapters:
    """Log-probs of given tokens under the policy without its adapters: no second model in memory."""

    def __init__(self, session: Session) -> None:
        self._policy, self._temperature = session.engine.policy, session.engine.config.temperature

    @torch.no_grad()
    def __call__(self, batch: MicroBatch) -> Tensor:
        """Log-probs [N] of the batch's targets, at the temperature of sampling."""
        training = self._policy.training
        self._policy.eval()
        try:
            with without_adapters(self._policy):
                logprobs: Tensor = self._policy(batch, self._temperature)[0]
        finally:
            self._policy.train(training)
        return logprobs
