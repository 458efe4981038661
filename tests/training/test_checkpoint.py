"""Checkpoints are complete or absent; resume takes the newest that verifies."""

from __future__ import annotations

import random
import resource
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qednano.errors import CheckpointError, Fenced
from qednano.training.checkpoint import Checkpoints
from qednano.training.engine import Interrupted, negative_log_likelihood
from qednano.training.session import Session


def writer(value: int, size: int = 1000):
    return lambda folder: torch.save(torch.full((size,), value), folder / "weights.pt")


def test_the_newest_is_found_with_its_state(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for step in (5, 10):
        checkpoints.save(step, {"seen": step * 7}, writer(step))
    newest = checkpoints.newest()
    assert (newest.step, newest.state) == (10, {"seen": 70})
    assert torch.load(newest.folder / "weights.pt")[0] == 10


def test_only_the_last_few_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {}, writer(step))
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-00000003", "step-00000004"]


def test_the_best_are_kept_beside_the_last(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=2)
    for step, score in enumerate((-3.0, -1.0, None, -2.0, -5.0, -4.0), start=1):
        checkpoints.save(step, {}, writer(step), score)
    assert [int(folder.name[-8:]) for folder in checkpoints.complete()] == [2, 4, 6]


def test_a_score_that_is_no_number_is_neither_best_nor_worst(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1)
    for step, score in enumerate((-3.0, float("nan"), -1.0, float("nan"), -2.0), start=1):
        checkpoints.save(step, {}, writer(step), score)
    assert [int(folder.name[-8:]) for folder in checkpoints.complete()] == [3, 5]


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_waits_for_it(tmp_path):
    checkpoints, go_on, said = Checkpoints(tmp_path), threading.Event(), []
    checkpoints.published = lambda new, kept: said.append(new.name)

    def slow(folder):
        assert go_on.wait(60)
        writer(1)(folder)

    checkpoints.start(1, {}, slow)
    assert checkpoints.busy() and checkpoints.newest() is None  # `start` came back, nothing is visible
    waiting = threading.Thread(target=checkpoints.start, args=(2, {}, writer(2)))
    waiting.start()
    go_on.set()
    waiting.join()
    assert said[0] == "step-00000001"
    checkpoints.wait()
    assert not checkpoints.busy() and checkpoints.newest().step == 2 and said[1] == "step-00000002"


def test_a_snapshot_is_of_its_moment_though_the_weights_move_on(model_folder, tmp_path):
    from tests.training.engine_steps import new_engine, run_step, step_documents

    engine, checkpoints, go_on = new_engine(model_folder), Checkpoints(tmp_path), threading.Event()
    run_step(engine, step_documents(0))
    expected, snapshot = engine.weights(), engine.snapshot()

    def late(folder):
        assert go_on.wait(60)
        snapshot.write(folder)

    checkpoints.start(engine.step, {}, late)
    run_step(engine, step_documents(1))
    go_on.set()
    checkpoints.wait()
    again = new_engine(model_folder)
    again.load(checkpoints.newest().folder)
    assert again.step == 1 and all(torch.equal(weight, expected[name]) for name, weight in again.weights().items())


@pytest.mark.parametrize("kept", ["None", "Full"])
def test_dropout_goes_on_where_it_was(model_folder, tmp_path, kept):
    from qednano.training.lora import LoraConfig
    from qednano.training.model import PolicyOptions
    from tests.training.engine_steps import new_engine, run_step, step_documents

    options = PolicyOptions(lora=LoraConfig(4, 8, 0.1, ("q_proj",)), activation_checkpointing=kept)
    engine, checkpoints = new_engine(model_folder, options=options), Checkpoints(tmp_path)
    run_step(engine, step_documents(0))
    checkpoints.save(1, {}, engine.snapshot().write)
    run_step(engine, step_documents(1))
    again, newest = new_engine(model_folder, options=options), checkpoints.newest()
    again.load(newest.folder)
    checkpoints.restore_random_state(newest)
    run_step(again, step_documents(1))
    expected = engine.weights()
    assert all(torch.equal(weight, expected[name]) for name, weight in again.weights().items())


def test_a_step_given_up_has_drawn_no_random_numbers():
    class Engine:
        def micro_batches(self, *_, **__):
            return []

        def train_step(self, batches, loss, give_up):
            torch.rand(3)
            raise Interrupted

    rows = SimpleNamespace(sequence_length=1, micro_batch_tokens=1)
    session = Session(None, Engine(), None, None, rows, None, total_steps=1)
    before = torch.get_rng_state()
    with pytest.raises(Interrupted):
        session.train([], negative_log_likelihood)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no manifest", "file gone"])
def test_a_torn_checkpoint_is_passed_over(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, {}, writer(step))
    torn = checkpoints.folder / "step-00000010"
    raw = (torn / "weights.pt").read_bytes()
    match damage:
        case "cut":
            (torn / "weights.pt").write_bytes(raw[: len(raw) // 2])
        case "flipped":
            (torn / "weights.pt").write_bytes(raw[:500] + bytes([raw[500] ^ 1]) + raw[501:])
        case "no manifest":
            (torn / "manifest.json").unlink()
        case "file gone":
            (torn / "state.json").unlink()
    assert checkpoints.newest().step == 5


@contextmanager
def files_limited_to(size: int):
    """What a full volume does to a writer: the write fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_rubbish(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {}, writer(5))
    with files_limited_to(50_000), pytest.raises(CheckpointError, match="step 10 could not be written.*is intact"):
        checkpoints.save(10, {}, writer(10, 100_000))
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000005"]
    assert checkpoints.newest().step == 5
    checkpoints.save(10, {}, writer(10))
    assert checkpoints.newest().step == 10


def test_a_full_disk_under_the_engine_is_a_checkpoint_error(model_folder, tmp_path):
    from tests.training.engine_steps import new_engine, run_step, step_documents

    engine, checkpoints = new_engine(model_folder), Checkpoints(tmp_path)
    run_step(engine, step_documents(0))
    checkpoints.save(engine.step, {}, engine.snapshot().write)
    run_step(engine, step_documents(1))
    with files_limited_to(30_000), pytest.raises(CheckpointError):
        checkpoints.save(engine.step, {}, engine.snapshot().write)
    newest = checkpoints.newest()
    new_engine(model_folder).load(newest.folder)
    assert newest.step == 1


def test_a_fenced_attempt_publishes_nothing(tmp_path):
    def fenced():
        raise Fenced("attempt 2 owns the folder")

    checkpoints = Checkpoints(tmp_path, before_publish=fenced)
    with pytest.raises(Fenced):
        checkpoints.save(5, {}, writer(5))
    assert checkpoints.newest() is None


def test_what_a_crash_left_is_swept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (checkpoints.folder / ".tmp-step-00000010").mkdir(parents=True)
    checkpoints.save(5, {}, writer(5))
    checkpoints.sweep()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000005"]


def test_a_checkpoint_that_was_being_replaced_when_the_end_came_is_put_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {"seen": 1}, writer(5))
    old = checkpoints.folder / ".old-step-00000005-x_y2"
    old.mkdir()
    (checkpoints.folder / "step-00000005").rename(old / "it")
    checkpoints.sweep()
    assert checkpoints.newest().state == {"seen": 1} and len(list(checkpoints.folder.iterdir())) == 1


def test_random_generators_continue_where_they_were(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}, writer(1))
    drawn = (random.random(), np.random.rand(), torch.rand(()))
    checkpoints.restore_random_state(checkpoints.newest())
    assert (random.random(), np.random.rand(), torch.rand(())) == drawn
