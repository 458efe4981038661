"""Supervised fine-tuning: datasets' proofs in, a model folder out. Stops and resumes at any step."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qednano import metrics
from qednano.api import SFTRunSpec
from qednano.api.sftrun import InitialModel
from qednano.artifacts import staging
from qednano.errors import DataError
from qednano.job import JobContext, Outcome, job
from qednano.training.engine import Interrupted, negative_log_likelihood
from qednano.training.examples import (
    DataOrder,
    Example,
    Examples,
    Pair,
    Source,
    documents,
    hold_out,
    read_pairs,
    tokenise,
)
from qednano.training.model import load_tokenizer
from qednano.training.session import Session, any_rank, finished, open_session

log = logging.getLogger("qednano.sft")


@dataclass(frozen=True)
class Texts:
    """What the run reads: pairs of each source with its weight, and those held out for validation."""

    sources: list[tuple[list[Pair], float]]
    validation: list[Pair]


@dataclass
class Lessons:
    """The same as tokens, the order in which they are seen, and what is said of them in the manifest."""

    examples: list[Example]
    order: DataOrder
    validation: list[Example]
    numbers: dict[str, float]


@job
def main(context: JobContext) -> Outcome:
    """See `qednano.api.SFTRunSpec` for what each field does."""
    spec: SFTRunSpec = context.spec
    if done := finished(context):
        return done
    context.reporter.update(stage="loading", total=spec.trainer.max_steps, unit="step")
    texts = read_texts(context, spec)  # before the model: a wrong dataset is found in no time
    lessons: list[Lessons] = []

    def count_steps(model_folder: Path) -> int:
        lessons.append(prepare(context, spec, texts, model_folder))
        return spec.trainer.max_steps or lessons[0].order.steps()

    session = open_session(
        context,
        lambda: _initial_model(context, spec.model.init, spec.seed) if spec.model.init else context.input_path("model"),
        trainer=spec.trainer,
        optimisation=spec.trainer,
        checkpoint=spec.checkpoint,
        total_steps=count_steps,
    )
    return Course(session, lessons[0], spec).run()


def read_texts(context: JobContext, spec: SFTRunSpec) -> Texts:
    """Read all datasets; what validation holds out is trained on from none of them."""
    main_pairs = read_pairs(context.input_path("dataset"))
    others = [(f"mixture/{number}/dataset", float(item.weight)) for number, item in enumerate(spec.mixture)]
    held: list[Pair] = []
    if spec.validation and spec.validation.hold_out:
        main_pairs, held = hold_out(main_pairs, spec.validation.hold_out, spec.seed)
    elif spec.validation:
        held = read_pairs(context.input_path("validation/dataset"))
    problems = {pair.problem for pair in held}
    sources = []
    for name, pairs, weight in [
        ("dataset", main_pairs, 1.0),
        *((name, read_pairs(context.input_path(name)), weight) for name, weight in others),
    ]:
        kept = [pair for pair in pairs if pair.problem not in problems]
        if len(kept) < len(pairs):
            log.warning("spec.%s: %d proofs of problems held out are not trained on", name, len(pairs) - len(kept))
        if not kept:
            raise DataError(f"spec.{name} has only problems of the validation rows; there is nothing to learn from")
        sources.append((kept, weight))
    return Texts(sources, held)


def prepare(context: JobContext, spec: SFTRunSpec, texts: Texts, model_folder: Path) -> Lessons:
    """Tokenise, and say how long the examples are and what had to be cut."""
    context.reporter.update(stage="tokenising")
    tokenizer, limit = load_tokenizer(model_folder), spec.trainer.sequence_length
    found = [tokenise(pairs, tokenizer, limit) for pairs, _ in texts.sources]
    together = Examples(
        [item for each in found for item in each.items],
        sum(each.truncated for each in found),
        sum(each.left_out for each in found),
        [length for each in found for length in each.lengths],
    )
    sources = [Source(len(each.items), weight) for each, (_, weight) in zip(found, texts.sources, strict=True)]
    numbers = together.statistics() | {"tokensPerEpoch": tokens_per_epoch(found, sources)}
    log.info(
        "%(proofs)d proofs, %(tokensPerEpoch)d tokens an epoch; lengths: median %(lengthMedian)d, 95 %% %(length95)d, "
        "longest %(lengthMax)d",
        numbers,
    )
    if together.truncated or together.left_out:
        log.warning(
            "%d proofs were cut to %d tokens (they end without the end-of-sequence token) and %d left out since their "
            "prompt alone is longer; raise spec.trainer.sequenceLength to keep them whole",
            together.truncated, limit, together.left_out,
        )  # fmt: skip
    context.reporter.update(metrics=numbers)
    order = DataOrder(
        [len(example.tokens) for example in together.items],
        spec.trainer.batch_tokens,
        spec.seed,
        sources,
        spec.trainer.epochs,
    )
    validation = tokenise(texts.validation, tokenizer, limit) if texts.validation else Examples([], 0, 0, [])
    if validation.truncated or validation.left_out:
        log.warning(
            "of the proofs that validate, %d were cut to %d tokens and %d left out: the validation loss is of the rest",
            validation.truncated, limit, validation.left_out,
        )  # fmt: skip
    return Lessons(together.items, order, validation.items, numbers)


def tokens_per_epoch(found: Sequence[Examples], sources: Sequence[Source]) -> int:
    """Tokens of an epoch on average, since each source is shown by its weight."""
    shown = (each.tokens * source.per_epoch / source.count for each, source in zip(found, sources, strict=True))
    return round(sum(shown))


def _initial_model(context: JobContext, init: InitialModel, seed: int) -> Path:
    """The untrained model in ``initial/``, made on rank 0 unless an earlier attempt made it."""
    from qednano.tiny import model

    final = context.run_dir / "initial"
    if context.rank == 0 and not final.is_dir():
        with staging(final) as folder:
            model.init(
                folder,
                hidden_size=init.hidden_size,
                layers=init.layers,
                heads=init.heads,
                kv_heads=init.kv_heads,
                mlp_size=init.mlp_size,
                max_length=init.max_length,
                seed=seed,
            )
            os.replace(folder, final)
    any_rank([False])  # the other ranks wait for it
    return final


class Course:
    """The steps of one attempt, from the newest checkpoint to the last step."""

    def __init__(self, session: Session, lessons: Lessons, spec: SFTRunSpec) -> None:
        self.session, self.engine, self.lessons, self.spec = session, session.engine, lessons, spec
        self.seen = self._saved = self._validated = 0  # proofs; the step that is saved, and the one last measured
        self.loss = self.validation_loss = float("nan")

    def run(self) -> Outcome:
        """Train to the last step and leave the artifact. Raises Stopped after saving."""
        self._resume()
        total = self.session.total_steps
        try:
            if self._validates() and self._validated < self.engine.step:  # a stop came before it was measured
                self._validate()
                self._save()
            while self.engine.step < total:
                self._step()
                if self.session.stop_requested() and self.engine.step < total:
                    raise Interrupted
                if self._validates():
                    self._validate()
                if self.session.due() or self.engine.step == total:
                    self._save()
        except Interrupted:  # first of all save: what is still to be measured can wait for the next attempt
            if self._saved != self.engine.step:
                self._save()
            raise self.session.stopped() from None
        return self._finish()

    def _resume(self) -> None:
        checkpoint = self.session.resume()
        if checkpoint is not None:
            self.seen, self.loss = checkpoint.state["seen"], checkpoint.state["loss"]
            self.validation_loss = checkpoint.state["validationLoss"]
            self._saved, self._validated = checkpoint.step, checkpoint.state.get("validated", checkpoint.step)

    def _step(self) -> None:
        began = time.monotonic()
        batch = [self.lessons.examples[index] for index in self.lessons.order.batch(self.seen)]
        step = self.session.train(documents(batch), negative_log_likelihood)
        self.seen += len(batch)
        self.loss = step.loss
        extra = {"entropy": step.sums["entropy"], "epoch": self.seen / self.lessons.order.per_epoch}
        self.session.report(step, extra, time.monotonic() - began)

    def _validates(self) -> bool:
        """Whether the step just done is one whose weights are measured: also those that are kept for being best."""
        if not self.lessons.validation or self.spec.validation is None:
            return False
        step, last = self.engine.step, self.session.total_steps
        kept = self.spec.checkpoint.keep_best > 0 and self.session.due()
        return kept or step == last or step % self.spec.validation.every_steps == 0

    def _validate(self) -> None:
        batches = self.session.micro_batches(documents(self.lessons.validation))
        self.validation_loss = self.engine.mean_loss(batches, self.session.stop_requested)
        self._validated = self.engine.step
        if self.engine.rank == 0:
            metrics.EVALUATION_LOSS.labels(self.session.context.role).set(self.validation_loss)
            self.session.context.reporter.update(metrics={"validationLoss": self.validation_loss})
            log.info("step %d: validation loss %.4f", self.engine.step, self.validation_loss)

    def _save(self) -> None:
        state = {
            "seen": self.seen,
            "loss": self.loss,
            "validationLoss": self.validation_loss,
            "validated": self._validated,
        }
        score = -self.validation_loss if self._validated == self.engine.step else None
        self.session.save(state, score=score)
        self._saved = self.engine.step

    def _finish(self) -> Outcome:
        steps, epochs = self.engine.step, self.seen / self.lessons.order.per_epoch
        message = f"trained {steps} steps on {self.seen} proofs ({epochs:.1f} epochs), last loss {self.loss:.4f}"
        numbers = {"loss": self.loss, "steps": float(steps), "seenProofs": float(self.seen), **self.lessons.numbers}
        numbers["skippedSteps"] = float(self.engine.refused_steps)
        if self.lessons.validation:
            message += f", validation loss {self.validation_loss:.4f}"
            numbers["validationLoss"] = self.validation_loss
        return self.session.finish(message, numbers)


if __name__ == "__main__":
    sys.exit(main())
