"""The learning side of an RL run: groups in, optimizer steps, weights out.

A group is used exactly once: the position of the last one used is in the checkpoint, and the stream is told to forget
what is behind it only after the checkpoint is complete. A group made by weights older than `max_staleness` steps is
passed over and counted. What became of the groups before they were published (zero variance, overlong, ungraded) is
the actor's business.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from qednano import metrics
from qednano.errors import DataError, Stopped
from qednano.rl import weights
from qednano.rl.advantages import advantages
from qednano.rl.broadcast import Broadcaster
from qednano.rl.losses import LossConfig, LossInputs, kl_divergence, token_losses, token_weights
from qednano.rl.reference_policy import ReferenceLogprobs
from qednano.rl.stream import Group, Sample, SampleStream
from qednano.training.engine import Interrupted, LossTerms
from qednano.training.packing import Document, MicroBatch
from qednano.training.session import Session

log = logging.getLogger(__name__)
FIELDS = ("behaviour", "advantage")
REFERENCE = "reference"
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)  # of the importance ratios that are shown
PATIENCE = 10.0  # seconds rank 0 waits for groups before it lets the other ranks know that it still does


@dataclass(frozen=True)
class TrainerConfig:
    """The algorithm's part of an RLRun as the trainer reads it; lengths and sizes in tokens, groups and steps."""

    loss: LossConfig
    advantage: str
    aggregation: str
    groups_per_step: int
    group_size: int
    max_steps: int
    max_staleness: int
    sequence_length: int
    served_reference: bool = False  # samples bring the reference policy's log-probs


@dataclass(frozen=True)
class Intake:
    """The groups of one step, the position of the last one taken, and what was passed over on the way."""

    groups: list[Group]
    position: str
    stale: int
    waited: float


@dataclass
class Reader:
    """Gathers the groups of a step from the stream, on rank 0; keeps what it has when its patience ends."""

    source: SampleStream
    stop: threading.Event
    position: str | None = None
    _groups: list[Group] = field(default_factory=list)
    _stale: int = 0
    _waited: float = 0.0
    _reached: str | None = None

    def gather(self, count: int, step: int, max_staleness: int, patience: float = PATIENCE) -> Intake | None:
        """`count` groups for optimizer step `step`; None when it was stopped or `patience` seconds passed."""
        deadline = time.monotonic() + patience
        while len(self._groups) < count:
            began = time.monotonic()
            patience_left = max(0.0, deadline - began)
            found = self.source.consume(self._reached or self.position, self.stop, patience_left, len(self._groups))
            self._waited += time.monotonic() - began
            if found is None:
                return None
            self._reached, group = found
            staleness = max(0, step - group.version)
            if staleness > max_staleness:
                self._stale += 1
                metrics.GROUPS.labels("stale").inc()
                continue
            metrics.STALENESS.observe(staleness)
            self._groups.append(group)
        assert self._reached is not None
        intake = Intake(self._groups, self._reached, self._stale, self._waited)
        self.position, self._groups, self._stale, self._waited = self._reached, [], 0, 0.0
        return intake


def step_documents(groups: Sequence[Group], config: TrainerConfig) -> list[Document]:
    """The documents of one step: each sample's tokens with weights, behaviour log-probs and advantage.

    Samples that can't move the policy (advantage 0, no entropy or KL term) are left out, but still count in the
    normaliser. Raises DataError naming the group whose sample is malformed.
    """
    samples = [sample for group in groups for sample in group.samples]
    for group in groups:
        for sample in group.samples:
            _check(group, sample, config)
    scores = advantages([[sample.reward for sample in group.samples] for group in groups], config.advantage)
    weights_of = token_weights(
        [len(sample.completion_ids) for sample in samples],
        config.aggregation,
        samples=max(len(samples), config.groups_per_step * config.group_size),
    )
    always = bool(config.loss.entropy_bonus or config.loss.needs_reference)
    documents = []
    for index, (sample, advantage) in enumerate(zip(samples, [a for group in scores for a in group], strict=True)):
        if sample.completion_ids and (advantage != 0 or always):
            prompt, length = len(sample.prompt_ids), len(sample.completion_ids)
            fields = {"behaviour": [0.0] * prompt + sample.logprobs, "advantage": [advantage] * (prompt + length)}
            if config.served_reference:
                fields[REFERENCE] = [0.0] * prompt + sample.reference
            documents.append(
                Document(
                    [*sample.prompt_ids, *sample.completion_ids],
                    [0.0] * prompt + [weights_of[index]] * length,
                    fields,
                    index=index,
                    prompt=prompt,
                )
            )
    return documents


def _check(group: Group, sample: Sample, config: TrainerConfig) -> None:
    if len(sample.logprobs) != len(sample.completion_ids) or not sample.prompt_ids:
        raise DataError(
            f"group {group.id}: a sample has {len(sample.prompt_ids)} prompt tokens, {len(sample.completion_ids)} "
            f"completion tokens and {len(sample.logprobs)} log-probs; there must be a prompt and one log-prob a token"
        )
    if config.served_reference and len(sample.reference) != len(sample.completion_ids):
        raise DataError(
            f"group {group.id}: a sample has {len(sample.completion_ids)} completion tokens and "
            f"{len(sample.reference)} log-probs of the reference policy; there must be one a token"
        )
    if len(sample.prompt_ids) + len(sample.completion_ids) > config.sequence_length:
        raise DataError(
            f"group {group.id}: a sample has {len(sample.prompt_ids) + len(sample.completion_ids)} tokens, "
            f"more than spec.trainer.sequenceLength ({config.sequence_length})"
        )


class PolicyLoss:
    """The step's loss function for the engine; also keeps the importance ratios of this rank for the metrics."""

    def __init__(self, config: LossConfig, reference: ReferenceLogprobs | None = None) -> None:
        self.config, self.reference = config, reference
        self.ratios: list[Tensor] = []

    def __call__(self, batch: MicroBatch, logprobs: Tensor, entropies: Tensor) -> LossTerms:
        behaviour = batch.fields["behaviour"]
        reference = None
        if self.config.needs_reference:
            reference = self.reference(batch) if self.reference else batch.fields[REFERENCE]
        inputs = LossInputs(logprobs, behaviour, batch.fields["advantage"], batch.sample, entropies, reference)
        terms = token_losses(inputs, self.config)
        self.ratios.append(terms.ratio)
        difference = logprobs.detach() - behaviour
        sums = {
            "count": torch.tensor(float(len(logprobs))),
            "entropy": entropies.sum(),
            "clipped": terms.clipped.sum(),
            "ratio": terms.ratio.sum(),
            "ratio2": terms.ratio.square().sum(),
            "behaviourKl": (torch.expm1(difference) - difference).sum(),
        }
        if reference is not None:
            sums["referenceKl"] = kl_divergence(logprobs.detach(), reference, "k3").sum()
        return LossTerms((batch.weights * terms.loss).sum(), sums)


class Trainer:
    """Runs the steps of one attempt of an RLRun. Every rank has one; only rank 0 reads the stream and publishes."""

    def __init__(
        self,
        session: Session,
        source: SampleStream,
        config: TrainerConfig,
        reference: ReferenceLogprobs | None = None,
        broadcaster: Broadcaster | None = None,
    ) -> None:
        self.session, self.engine, self.config = session, session.engine, config
        self.broadcaster = broadcaster
        self.source, self.reference = source, reference
        self.reader = Reader(source, session.context.stopping)
        self.stale_groups = 0
        self.reward = 0.0
        self._saved = -1  # optimizer step of the newest checkpoint

    def run(self) -> None:
        """From the newest checkpoint to the last step. Raises Stopped after saving."""
        self._resume()
        self._publish()
        while self.engine.step < self.config.max_steps:
            self.session.context.reporter.update(stage="waiting for groups" if self.engine.step == 0 else "training")
            before = self.reader.position
            intake = self._next_intake()
            if intake is None:
                raise self._stopped()
            try:
                self._step(intake)
            except Interrupted:  # a step may take minutes: its groups come again
                self.reader.position = before
                raise self._stopped() from None
            self._publish()
            if self.session.due() or self.engine.step == self.config.max_steps:
                self._save()

    def _stopped(self) -> Stopped:
        """What to raise as a stop was asked for, once the state of now is saved. Collective."""
        if self._saved != self.engine.step:
            self._save()
        return self.session.stopped()

    def _resume(self) -> None:
        checkpoint = self.session.resume()
        if checkpoint is not None:
            self.reader.position = checkpoint.state["position"]
            self.stale_groups = checkpoint.state["staleGroups"]
            self.reward = checkpoint.state["reward"]
            self._saved = checkpoint.step
            self._acknowledge(self.reader.position)  # the attempt before may have ended between its checkpoint and this

    def _next_intake(self) -> Intake | None:
        """The next step's groups, the same on every rank; None when a stop was requested."""
        config = self.config
        while not self.session.stop_requested():
            message: list[Intake | None] = [None]
            if self.engine.rank == 0:
                message[0] = self.reader.gather(config.groups_per_step, self.engine.step, config.max_staleness)
            if self.engine.ranks > 1:
                dist.broadcast_object_list(message)
            if message[0] is not None:
                return message[0]
        return None

    def _step(self, intake: Intake) -> None:
        began = time.monotonic()
        config = self.config
        documents = step_documents(intake.groups, config)
        loss = PolicyLoss(config.loss.at(self.engine.step), self.reference)
        names = (*FIELDS, REFERENCE) if config.served_reference else FIELDS
        step = self.session.train(documents, loss, names)
        self.stale_groups += intake.stale
        rewards = [sample.reward for group in intake.groups for sample in group.samples]
        self.reward = sum(rewards) / max(1, len(rewards))
        extra = {"trainedReward": self.reward, "staleGroups": float(self.stale_groups), "waitSeconds": intake.waited}
        extra |= _policy_metrics(step.sums, loss.ratios)
        extra["staleness"] = sum(
            max(0, self.engine.step - 1 - group.version) for group in intake.groups
        ) / len(intake.groups)  # fmt: skip
        if self.engine.rank == 0:
            metrics.TRAINER_WAIT.inc(intake.waited)
            metrics.TRAINER_BUSY.inc(time.monotonic() - began)
            metrics.TRAINED_REWARD.set(self.reward)
            metrics.GROUPS.labels("trained").inc(len(intake.groups))
        self.session.report(step, extra, time.monotonic() - began)

    def _publish(self) -> None:
        began = time.monotonic()
        export = self.engine.weights()
        if self.engine.rank == 0:
            if self.broadcaster is not None:
                self.session.checkpoints.before_publish()
                self.broadcaster.send(self.engine.step, export)
            weights.publish(
                self.session.context.run_dir,
                self.engine.step,
                lambda folder: self.session.write_model(export, folder),
                fence=self.session.checkpoints.before_publish,
            )
            metrics.WEIGHT_VERSION.labels("trainer").set(self.engine.step)
            metrics.WEIGHT_PUBLISH_SECONDS.observe(time.monotonic() - began)

    def _save(self) -> None:
        position = self.reader.position
        self.session.save(
            {"position": position, "staleGroups": self.stale_groups, "reward": self.reward},
            score=self.reward,
            then=lambda: self._acknowledge(position),
        )
        self._saved = self.engine.step

    def _acknowledge(self, position: str | None) -> None:
        if self.engine.rank == 0 and position is not None:
            with contextlib.suppress(Stopped):  # the stream is away as we have to end: the next attempt tells it
                self.source.acknowledge(position)


def _policy_metrics(sums: dict[str, float], ratios: Sequence[Tensor]) -> dict[str, float]:
    """Shown and exported means over the step's tokens; nothing where no sample could move the policy."""
    count = sums["count"]
    if not count:
        return {}
    share = {name: sums[name] / count for name in ("entropy", "clipped", "behaviourKl", "referenceKl") if name in sums}
    effective = sums["ratio"] ** 2 / max(1e-12, count * sums["ratio2"])
    metrics.ENTROPY.set(share["entropy"])
    metrics.CLIPPED_SHARE.set(share["clipped"])
    metrics.KL.set(share["behaviourKl"])
    if "referenceKl" in share:
        metrics.REFERENCE_KL.set(share["referenceKl"])
    metrics.EFFECTIVE_SAMPLE_SIZE.set(effective)
    shown = {**share, "ratio": sums["ratio"] / count, "effectiveSampleRatio": effective}
    together = torch.cat(list(ratios)) if ratios else torch.empty(0)
    if len(together):
        for name, value in zip(QUANTILES, _quantiles(together, QUANTILES), strict=True):
            metrics.IMPORTANCE_RATIO.labels(str(name)).set(value)
    return shown


def _quantiles(values: Tensor, shares: Sequence[float]) -> list[float]:
    ordered = values.sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in shares]
