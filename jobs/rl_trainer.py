"""The trainer of an RL run: graded groups in, weights for the servers out, a model folder at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from qednano.api import RLRunSpec
from qednano.api.rlrun import WeightTransfer
from qednano.errors import ConfigError
from qednano.job import JobContext, Outcome, job
from qednano.rl.broadcast import Broadcaster
from qednano.rl.losses import LossConfig
from qednano.rl.nccl import Fabric, Nccl
from qednano.rl.open_stream import open_stream
from qednano.rl.reference_policy import ReferenceLogprobs, reference_policy
from qednano.rl.trainer import Trainer, TrainerConfig
from qednano.training.session import Session, finished, open_session


def trainer_config(spec: RLRunSpec) -> TrainerConfig:
    """What the trainer reads of the spec."""
    algorithm = spec.algorithm
    return TrainerConfig(
        loss=LossConfig(
            loss=str(algorithm.loss),
            importance_cap=float(algorithm.importance_cap),
            clip_low=float(algorithm.clip_low),
            clip_high=float(algorithm.clip_high),
            entropy_bonus=float(algorithm.entropy_bonus),
            entropy_decay_steps=algorithm.entropy_decay_steps,
            kl=str(algorithm.kl_estimator),
            kl_weight=float(algorithm.kl_coefficient),
        ),
        advantage=str(algorithm.advantage),
        aggregation=str(algorithm.aggregation),
        groups_per_step=algorithm.problems_per_step,
        group_size=algorithm.group_size,
        max_steps=algorithm.max_steps,
        max_staleness=algorithm.max_staleness,
        sequence_length=spec.trainer.sequence_length,
        served_reference=bool(algorithm.kl_coefficient) and spec.reference is not None,
    )


def reference_of(spec: RLRunSpec, session: Session) -> ReferenceLogprobs | None:
    """The reference policy, where the trainer has to compute it."""
    if not spec.algorithm.kl_coefficient or spec.reference is not None:
        return None
    return reference_policy(session)


def broadcaster_of(spec: RLRunSpec, session: Session, fabric: Callable[[], Fabric] = Nccl) -> Broadcaster | None:
    """What sends weights to the servers' GPUs, on rank 0 of a run that asks for it."""
    if spec.weight_transfer is WeightTransfer.FILES or session.engine.rank != 0:
        return None
    server = spec.rollout
    ranks = server.tensor_parallel * server.pipeline_parallel * server.data_parallel
    return Broadcaster(session.context.run_dir, fabric(), ranks)


@job
def main(context: JobContext) -> Outcome:
    """See `qednano.api.RLRunSpec` for what each field does."""
    spec: RLRunSpec = context.spec
    if done := finished(context):
        return done
    if spec.sampling.temperature == 0:
        raise ConfigError("spec.sampling.temperature is 0: greedy samples have no log-probs to learn from; use 1.0")
    context.reporter.update(stage="loading", total=spec.algorithm.max_steps, unit="step")
    session = open_session(
        context,
        lambda: context.input_path("model"),
        trainer=spec.trainer,
        optimisation=spec.trainer,
        checkpoint=spec.checkpoint,
        total_steps=spec.algorithm.max_steps,
        temperature=float(spec.sampling.temperature),
    )
    stream = open_stream(spec, context)
    broadcaster = broadcaster_of(spec, session)
    trainer = Trainer(session, stream, trainer_config(spec), reference_of(spec, session), broadcaster)
    try:
        trainer.run()
    finally:
        if broadcaster is not None:
            broadcaster.close()
        stream.close()
    steps = session.engine.step
    return session.finish(
        f"trained {steps} steps, reward {trainer.reward:.3f} in the last, {trainer.stale_groups} groups too stale",
        {"trainedReward": trainer.reward, "steps": float(steps), "staleGroups": float(trainer.stale_groups)},
    )


if __name__ == "__main__":
    sys.exit(main())
