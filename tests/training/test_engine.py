"""The engine gives the same step however documents fall into micro-batches, ranks and ZeRO stages."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from qednano.errors import CheckpointError, ConfigError, NumericGuard
from qednano.training.engine import Interrupted, LossTerms
from qednano.training.export import checkpoint_weights
from qednano.training.lora import LoraConfig
from qednano.training.model import PolicyOptions, load_policy
from qednano.training.packing import collate
from tests.training.engine_steps import STEPS, main, new_engine, nll, run_step, save, step_documents, variant_engine

STAGES = ("0:fp32", "1:fp32", "2:fp32", "3:fp32")
BF16 = ("1:bf16", "3:bf16")
LORA = ("0:fp32:lora", "3:fp32:lora")
BF16_LORA = ("1:bf16:lora", "3:bf16:lora")
SEQUENCE = ("0:fp32:sequence", "3:fp32:sequence:offload")  # two ranks share each row


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(model_folder) -> tuple[dict[str, torch.Tensor], list[tuple[float, float]]]:
    """The same steps in plain torch: one batch, AdamW, clip_grad_norm_. Weights after them, (loss, norm) of each."""
    policy = load_policy(model_folder, dtype=torch.float32)
    matrices = [p for p in policy.parameters() if p.dim() >= 2]
    vectors = [p for p in policy.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98))
    seen = []
    for step, rate in zip(range(STEPS + 1), (0.5e-2, 1e-2, 1e-2, None), strict=True):
        if rate is None:  # the first step of the cosine's descent
            rate = 1e-2 * (1 + math.cos(math.pi / 8)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = collate(step_documents(step))
        loss = nll(batch, *policy(batch)).total
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        seen.append((float(loss.detach()), float(norm)))
    return {n.removeprefix("causal_lm."): p.detach() for n, p in policy.named_parameters()}, seen


def test_a_step_does_not_depend_on_micro_batches_and_equals_plain_torch(model_folder, plain):
    expected, seen = plain
    for micro_batch_tokens in (64, 200, 100_000):
        engine = new_engine(model_folder)
        reports = [run_step(engine, step_documents(step), micro_batch_tokens) for step in range(STEPS + 1)]
        for report, (loss, norm) in zip(reports, seen, strict=True):
            assert report.loss == pytest.approx(loss, abs=1e-5) and report.applied
            assert report.grad_norm == pytest.approx(norm, rel=1e-4)
            assert norm > 0.1  # so that clipping is seen to work
        for name, weight in engine.weights().items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-4, msg=name)


@pytest.fixture(scope="module")
def by_ranks(model_folder, tmp_path_factory) -> dict[int, Path]:
    """Weights after the steps by one and by two real processes, for every ZeRO stage; each also resumes exactly."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2)}
    variants = (*STAGES, *BF16, *LORA, *BF16_LORA)
    main(str(model_folder), str(folders[1]), *variants)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run(
        [*launcher, "tests.training.engine_steps", str(model_folder), str(folders[2]), *variants, *SEQUENCE],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"},
        timeout=300,
    )
    return folders


def read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """What engine_steps noted of the steps, and the weights after them."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("ranks", "variant"), [*((ranks, stage) for ranks in (1, 2) for stage in STAGES), *((2, each) for each in SEQUENCE)]
)
def test_ranks_zero_stages_and_shared_rows_agree_with_plain_torch(by_ranks, plain, variant, ranks):
    expected, seen = plain
    meta, weights = read(by_ranks[ranks] / f"{variant}.safetensors")
    for step in range(STEPS):
        assert float(meta[f"loss{step}"]) == pytest.approx(seen[step][0], abs=1e-5)
        assert float(meta[f"norm{step}"]) == pytest.approx(seen[step][1], rel=1e-5)
        assert int(meta[f"tokens{step}"]) == sum(len(document.tokens) for document in step_documents(step))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():  # Adam's first steps are +-rate, whatever the gradient: hence the tolerance
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("variant", BF16)
@pytest.mark.parametrize("ranks", [1, 2])
def test_bf16_trains_close_to_fp32_on_any_number_of_ranks(by_ranks, plain, variant, ranks):
    meta, weights = read(by_ranks[ranks] / f"{variant}.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    for step in range(STEPS):
        assert float(meta[f"loss{step}"]) == pytest.approx(plain[1][step][0], abs=0.01)
        assert float(meta[f"norm{step}"]) == pytest.approx(plain[1][step][1], rel=0.02)


def test_adapters_train_alike_everywhere_and_leave_the_other_weights_alone(by_ranks, model_folder):
    _, start = read(model_folder / "model.safetensors")
    _, expected = read(by_ranks[1] / "0:fp32:lora.safetensors")
    changed = {name for name, weight in expected.items() if not torch.equal(weight, start[name])}
    assert changed == {name for name in start if "q_proj.weight" in name or "down_proj" in name}
    for ranks in (1, 2):
        for variant in LORA:
            _, weights = read(by_ranks[ranks] / f"{variant}.safetensors")
            assert weights.keys() == start.keys()
            for name, weight in weights.items():
                torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("variant", [*STAGES, "3:bf16", *LORA, "3:bf16:lora"])
def test_a_checkpoint_continues_on_another_number_of_ranks_and_another_stage(by_ranks, model_folder, variant):
    """Two ranks wrote it; one takes it up, at the stage it was written with and at another, and goes on as they did."""
    _, expected = read(by_ranks[2] / f"{variant}.safetensors")
    checkpoint = by_ranks[2] / f"checkpoint-{variant}"
    assert len(list(checkpoint.glob("engine-*.safetensors"))) == 2
    other = variant.replace("0:", "3:", 1) if variant.startswith("0:") else variant.replace(variant[0], "1", 1)
    for taken_up_as in (variant, other):
        engine = variant_engine(model_folder, taken_up_as)
        engine.load(checkpoint)
        assert engine.step == STEPS
        run_step(engine, step_documents(STEPS))
        for name, weight in engine.weights().items():
            close = 1e-2 if "bf16" in variant else 1e-5
            torch.testing.assert_close(weight.float(), expected[name].float(), rtol=close, atol=close, msg=name)


@pytest.mark.parametrize("variant", ["0:fp32", "3:bf16", "0:fp32:lora"])
def test_a_checkpoint_becomes_the_model_that_the_engine_would_have_written(by_ranks, model_folder, variant):
    engine = variant_engine(model_folder, variant)
    engine.load(by_ranks[2] / f"checkpoint-{variant}")
    found = checkpoint_weights(by_ranks[2] / f"checkpoint-{variant}", model_folder)
    expected = engine.weights()
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], weight) and found[name].dtype == weight.dtype for name, weight in expected.items()
    )


def test_merged_adapters_compute_what_the_trainer_computes(model_folder, tmp_path):
    engine = variant_engine(model_folder, "0:fp32:lora")
    run_step(engine, step_documents(0))
    engine.export(model_folder, tmp_path / "merged")
    batch = collate(step_documents(1))
    expected, _ = engine.logprobs(batch)
    with torch.no_grad():
        found, _ = load_policy(tmp_path / "merged", dtype=torch.float32)(batch)
        before, _ = load_policy(model_folder, dtype=torch.float32)(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_adapters_that_fit_no_layer_are_refused(model_folder):
    options = PolicyOptions(lora=LoraConfig(4, 8, 0.0, ("qproj",)))
    with pytest.raises(ConfigError, match=r"spec.trainer.lora.targets \['qproj'\]"):
        load_policy(model_folder, dtype=torch.float32, options=options)


@pytest.mark.parametrize("variant", ["0:fp32", "1:fp32", "2:fp32", "3:fp32", "1:bf16", "3:bf16"])
def test_one_bad_gradient_refuses_the_whole_step_at_every_stage(model_folder, variant):
    """A gradient that isn't finite in one parameter group must not let the other group's weights move."""
    engine = variant_engine(model_folder, variant)
    run_step(engine, step_documents(0))
    before = engine.weights()
    norm = engine.policy.causal_lm.model.norm.weight
    handle = norm.register_hook(lambda grad: grad * math.inf)
    assert not run_step(engine, step_documents(1)).applied
    handle.remove()
    assert all(torch.equal(weight, before[name]) for name, weight in engine.weights().items())
    assert run_step(engine, step_documents(2)).applied


def test_a_loss_that_is_not_finite_is_skipped_and_too_many_stop_the_run(model_folder):
    engine = new_engine(model_folder, refusals_allowed=2)
    run_step(engine, step_documents(0))
    before = engine.weights()

    def broken(batch, logprobs, entropies):
        return LossTerms((logprobs * math.nan).sum())

    batch = [collate(step_documents(1))]
    assert not engine.train_step(batch, broken).applied
    assert not engine.train_step(batch, broken).applied
    assert engine.refused_steps == 2 and engine.step == 3
    assert all(torch.equal(weight, before[name]) for name, weight in engine.weights().items())
    assert run_step(engine, step_documents(2)).applied  # one good step starts the count afresh
    engine.train_step(batch, broken)
    engine.train_step(batch, broken)
    with pytest.raises(NumericGuard, match="3 steps in a row, up to step 7.*learningRate"):
        engine.train_step(batch, broken)


def test_infinite_loss_with_finite_gradients_is_skipped_too(model_folder):
    engine = new_engine(model_folder)
    before = engine.weights()
    report = engine.train_step(
        [collate(step_documents(0))], lambda b, logprobs, e: LossTerms(logprobs.sum() + torch.tensor(math.inf))
    )
    assert not report.applied
    assert all(torch.equal(weight, before[name]) for name, weight in engine.weights().items())


@pytest.mark.parametrize("variant", ["0:fp32", "2:fp32", "3:bf16:lora"])
def test_a_step_given_up_half_way_leaves_what_was_before_it(model_folder, tmp_path, monkeypatch, variant):
    monkeypatch.setattr("qednano.training.engine.ASK_SECONDS", 0.0)
    engine, whole = (variant_engine(model_folder, variant) for _ in range(2))
    for each in (engine, whole):
        run_step(each, step_documents(0))
    batches = engine.micro_batches(step_documents(1), sequence_length=64, micro_batch_tokens=64)
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        engine.train_step(batches, nll, lambda: next(answers))
    with pytest.raises(Interrupted):
        engine.mean_loss(batches, lambda: True)
    save(engine, tmp_path / "checkpoint")
    again = variant_engine(model_folder, variant)
    again.load(tmp_path / "checkpoint")
    assert again.step == 1
    for each in (again, whole):
        assert run_step(each, step_documents(1)).applied
    expected = whole.weights()
    assert all(torch.equal(weight, expected[name]) for name, weight in again.weights().items())


def test_whether_to_give_up_is_not_asked_in_steps_that_end_soon(model_folder):
    engine, asked = new_engine(model_folder), []
    batches = engine.micro_batches(step_documents(0), sequence_length=64, micro_batch_tokens=64)
    assert len(batches) > 2
    for _ in range(2):
        engine.train_step(batches, nll, lambda: asked.append(engine.step))
    assert set(asked) == {0}  # of the first step nobody knows yet how long it takes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_positions_far_out_are_as_exact_in_bf16(model_folder, precision):
    """Rotary frequencies rounded to bf16 would turn a query at 50,000 by 100 radians too many."""
    rotary = new_engine(model_folder, 1, precision).policy.causal_lm.model.rotary_emb
    assert rotary.inv_freq.dtype == torch.float32
    torch.testing.assert_close(
        rotary.inv_freq, rotary.compute_default_rope_parameters(rotary.config)[0], rtol=0, atol=0
    )


@pytest.mark.parametrize("variant", ["0:fp32", "3:fp32"])
def test_a_head_of_its_own_weights_is_trained_and_exported(model_folder, tmp_path, variant):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    shutil.copytree(model_folder, tmp_path / "untied")
    model.save_pretrained(tmp_path / "untied")
    engine = variant_engine(tmp_path / "untied", variant)
    run_step(engine, step_documents(0))
    engine.export(tmp_path / "untied", tmp_path / "out")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert not torch.equal(trained.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(trained.lm_head.weight, trained.model.embed_tokens.weight)
    batch = collate(step_documents(1)[:1])
    with torch.no_grad():
        logits = torch.log_softmax(trained(input_ids=batch.input_ids).logits[0], -1)
    found, _ = engine.logprobs(batch)
    torch.testing.assert_close(logits[batch.predictors, batch.targets], found, rtol=0, atol=1e-5)


def test_export_is_a_plain_model_folder(model_folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    engine = new_engine(model_folder)
    run_step(engine, step_documents(0))
    engine.export(model_folder, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    batch = collate(step_documents(1)[:1])
    with torch.no_grad():
        logits = torch.log_softmax(model(input_ids=batch.input_ids).logits[0], -1)
    found, _ = engine.logprobs(batch)
    torch.testing.assert_close(logits[batch.predictors, batch.targets], found, rtol=0, atol=1e-5)


def test_a_checkpoint_of_another_model_is_refused(model_folder, tmp_path):
    from qednano.tiny import model

    engine = new_engine(model_folder)
    save(engine, tmp_path / "checkpoint")
    model.init(tmp_path / "other", hidden_size=64, layers=1, heads=2, kv_heads=1, mlp_size=64)
    with pytest.raises(CheckpointError, match="can't be loaded"):
        new_engine(tmp_path / "other").load(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("missing", "named"),
    [("config.json", "config.json"), ("model.safetensors", "safetensors"), ("tokenizer.json", "tokenizer.json"),
     ("chat_template.jinja", "chat template")],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(model_folder, tmp_path, missing, named):
    for path in model_folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ConfigError, match=f"{tmp_path} is not a model: it lacks .*{named}"):
        load_policy(tmp_path, dtype=torch.float32)


def test_a_step_on_samples_that_share_prompts_is_the_step_on_samples_that_do_not(model_folder):
    alone = [
        replace(document, tokens=[*range(10, 14), *document.tokens], weights=[0.0] * 4 + [1e-2] * len(document.tokens))
        for document in step_documents(0)
    ]
    sharing = [replace(document, prompt=4) for document in alone]
    for micro_batch_tokens in (64, 100_000):
        reports = [run_step(new_engine(model_folder), documents, micro_batch_tokens) for documents in (alone, sharing)]
        assert reports[1].loss == pytest.approx(reports[0].loss, abs=1e-5)
        assert reports[1].grad_norm == pytest.approx(reports[0].grad_norm, abs=1e-5)
        assert reports[1].tokens < reports[0].tokens == sum(len(document.tokens) for document in alone)
        assert reports[1].flops < reports[0].flops
