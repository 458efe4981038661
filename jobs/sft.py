"""Supervised fine-tuning: a dataset's proofs in, a model folder out. Stops and resumes at any step."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qednano.api import SFTRunSpec
from qednano.api.sftrun import InitialModel
from qednano.artifacts import staging
from qednano.job import JobContext, Outcome, job
from qednano.training.engine import LossTerms
from qednano.training.examples import DataOrder, Example, documents, read_pairs, tokenise
from qednano.training.model import load_tokenizer
from qednano.training.packing import MicroBatch, collate, deal
from qednano.training.session import Session, any_rank, finished, open_session

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("qednano.sft")


def negative_log_likelihood(batch: MicroBatch, logprobs: Tensor, entropies: Tensor) -> LossTerms:
    """Weighted sum of -log p over the answer's tokens; the weights of a step add up to 1."""
    return LossTerms(-(batch.weights * logprobs).sum(), {"entropy": (batch.weights * entropies).sum()})


@job
def main(context: JobContext) -> Outcome:
    """See `qednano.api.SFTRunSpec` for what each field does."""
    spec: SFTRunSpec = context.spec
    if done := finished(context):
        return done
    context.reporter.update(stage="loading", total=spec.trainer.max_steps, unit="step")
    pairs = read_pairs(context.input_path("dataset"))  # before the model: a wrong dataset is found in no time
    session = open_session(
        context,
        lambda: _initial_model(context, spec.model.init, spec.seed) if spec.model.init else context.input_path("model"),
        trainer=spec.trainer,
        optimisation=spec.trainer,
        checkpoint=spec.checkpoint,
        total_steps=spec.trainer.max_steps,
    )
    examples = _examples(context, session, pairs, spec.trainer.sequence_length)
    order = DataOrder([len(example.tokens) for example in examples], spec.trainer.batch_tokens, spec.seed)
    loss, seen = _train(session, examples, order, spec)
    epochs = seen / len(examples)
    return session.finish(
        f"trained {session.engine.step} steps on {seen} proofs ({epochs:.1f} epochs), last loss {loss:.4f}",
        {"loss": loss, "steps": float(session.engine.step), "proofs": float(seen)},
    )


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
    any_rank(False)  # the other ranks wait for it
    return final


def _examples(
    context: JobContext, session: Session, pairs: list[tuple[str, str]], sequence_length: int
) -> list[Example]:
    context.reporter.update(stage="tokenising")
    found = tokenise(pairs, load_tokenizer(session.model_folder), sequence_length)
    tokens = sum(len(example.tokens) for example in found.items)
    log.info("%d proofs, %d tokens", len(found.items), tokens)
    if found.truncated or found.left_out:
        log.warning(
            "%d proofs of %s were cut to %d tokens (they end without the end-of-sequence token) and %d left out since "
            "their prompt alone is longer; raise spec.trainer.sequenceLength to keep them whole",
            found.truncated, context.input_path("dataset"), sequence_length, found.left_out,
        )  # fmt: skip
    context.reporter.update(
        metrics={"proofs": len(found.items), "truncatedProofs": found.truncated, "leftOutProofs": found.left_out}
    )
    return found.items


def _train(session: Session, examples: list[Example], order: DataOrder, spec: SFTRunSpec) -> tuple[float, int]:
    """Run to the last step; the last loss and how many proofs were seen. Raises Stopped after saving."""
    engine, trainer = session.engine, spec.trainer
    checkpoint = session.resume()
    seen, loss = (checkpoint.state["seen"], checkpoint.state["loss"]) if checkpoint else (0, float("nan"))
    while engine.step < trainer.max_steps:
        began = time.monotonic()
        batch = [examples[index] for index in order.batch(seen)]
        seen += len(batch)
        members = documents(batch)
        dealt = deal(
            [len(document.tokens) for document in members],
            sequence_length=trainer.sequence_length,
            micro_batch_tokens=trainer.micro_batch_tokens,
            ranks=engine.ranks,
        )
        step = engine.train_step(
            [collate([members[index] for index in micro]) for micro in dealt[engine.rank]], negative_log_likelihood
        )
        loss = step.loss
        session.report(step, {"entropy": step.sums["entropy"], "epoch": seen / len(examples)}, time.monotonic() - began)
        stop = session.stop_requested()
        if session.due() or stop or engine.step == trainer.max_steps:
            session.save({"seen": seen, "loss": loss})
        if stop and engine.step < trainer.max_steps:
            raise session.stopped()
    return loss, seen


if __name__ == "__main__":
    sys.exit(main())
