"""Packed rows give exactly what each document gives alone, in loss and in gradients."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from transformers import AutoModelForCausalLM

from qednano.errors import ConfigError
from qednano.training.attention import (
    BLOCK_MASK,
    FLASH,
    FLEX,
    SEGMENTS,
    _flex_mask,
    block_mask,
    choose_attention,
    segments,
)
from qednano.training.model import PolicyOptions, load_policy
from qednano.training.packing import Document, Layout, collate

LENGTHS = [9, 31, 2, 30, 75, 1, 17]  # several buckets, one document of one token


def documents(seed: int = 0) -> list[Document]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index, length in enumerate(LENGTHS):
        tokens = torch.randint(4, 300, (length,), generator=generator).tolist()
        found.append(Document(tokens, [0.0] * (length // 3) + [1.0] * (length - length // 3), index=index))
    return found


def alone(folder, docs, temperature=1.0):
    """Log-probs and gradients by transformers' own model, one document at a time, with full logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    logprobs = []
    for doc in docs:
        ids = torch.tensor([doc.tokens])
        all_logprobs = torch.log_softmax(model(input_ids=ids).logits[0] / temperature, -1)
        places = [place for place in range(1, len(doc.tokens)) if doc.weights[place]]
        logprobs.append(
            torch.stack([all_logprobs[p - 1, doc.tokens[p]] for p in places]) if places else ids.new_empty(0)
        )
    logprobs = torch.cat(logprobs)
    (logprobs.sum() / 50).backward()
    return logprobs.detach(), {name: p.grad for name, p in model.named_parameters()}


def varlen_on_a_cpu(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What torch.nn.attention.varlen.varlen_attn says it computes, plainly; the real one needs a GPU."""
    assert window_size == (-1, 0) and cu_seq_q.dtype == torch.int32
    bounds = cu_seq_q.tolist()
    assert max(b - a for a, b in zip(bounds, bounds[1:], strict=False)) == max_q == max_k
    outs = []
    for a, b in zip(bounds, bounds[1:], strict=False):
        q, k, v = (x[a:b].transpose(0, 1)[None] for x in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def policy_with(folder, name, monkeypatch):
    """A policy that attends in the given way, with the GPU's kernel stood in for."""
    if name == FLASH:
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_on_a_cpu)
        monkeypatch.setattr("qednano.training.attention.choose_attention", lambda *_: FLASH)
    return load_policy(folder, dtype=torch.float32, options=PolicyOptions(attention=name))


def assert_as_alone(policy, batch, docs, folder, temperature=1.0):
    """Log-probs and gradients of the batch are those of transformers' own model, one document at a time."""
    expected, expected_grads = alone(folder, docs, temperature)
    logprobs, _ = policy(batch, temperature)
    (logprobs.sum() / 50).backward()
    in_order = logprobs.detach()[batch.sample.argsort(stable=True)]
    torch.testing.assert_close(in_order, expected, rtol=0, atol=1e-5)
    grads = {name.removeprefix("causal_lm."): p.grad for name, p in policy.named_parameters()}
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", [SEGMENTS, BLOCK_MASK, FLASH])
def test_packed_equals_unpacked_in_logprobs_and_gradients(model_folder, name, monkeypatch):
    docs = documents()
    policy = policy_with(model_folder, name, monkeypatch)
    assert_as_alone(policy, collate(docs), docs, model_folder, temperature=0.8)


def test_flex_attention_agrees_in_the_forward_pass(model_folder):
    """Its backward pass exists on GPUs only, where bench/gpu_sft.py compares the gradients too."""
    flex = load_policy(model_folder, dtype=torch.float32, options=PolicyOptions(attention=FLEX))
    segmented = load_policy(model_folder, dtype=torch.float32)
    for batch in (collate(documents()), collate(groups(), share=True)):
        with torch.no_grad():
            torch.testing.assert_close(flex(batch)[0], segmented(batch)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        Layout((700, 300, 24, 1, 1023), (-1, -1, 1, 1, -1)),
        Layout((128, 256, 128, 384), (-1, -1, 1, 0)),  # pieces that are blocks
        Layout((5,)),
        Layout((1000, 24)),
        Layout((60, 70, 900), (-1, 0, 0)),
    ],
)
def test_blocks_for_flex_attention_are_those_that_pytorch_finds_in_the_whole_mask(layout):
    from torch.nn.attention.flex_attention import create_block_mask

    dense, total = block_mask(layout)[0, 0], sum(layout.lengths)
    expected = create_block_mask(lambda b, h, q, k: dense[q, k], None, None, total, total, device="cpu")
    found = _flex_mask(layout, torch.device("cpu"))
    assert found.seq_lengths == expected.seq_lengths and found.BLOCK_SIZE == expected.BLOCK_SIZE
    for name in ("kv", "full_kv", "q", "full_q"):
        count, indices = (getattr(expected, f"{name}_{what}") for what in ("num_blocks", "indices"))
        assert torch.equal(getattr(found, f"{name}_num_blocks"), count), name
        assert torch.equal(getattr(found, f"{name}_indices"), indices), name
    places = torch.arange(total)
    assert torch.equal(found.mask_mod(None, None, places[:, None], places[None, :]), dense)


def test_a_key_block_of_a_prompt_and_what_follows_it_is_seen_too():
    """PyTorch knows that later blocks see all of it; here they ask the mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    layout = Layout((60, 900), (-1, 0))
    dense, found = block_mask(layout)[0, 0], _flex_mask(layout, torch.device("cpu"))
    expected = create_block_mask(lambda b, h, q, k: dense[q, k], None, None, 960, 960, device="cpu")
    assert torch.equal(found.to_dense(), expected.to_dense())


def test_the_way_to_attend_is_chosen_by_device_and_refused_where_it_cannot_work():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_attention("Auto", cpu, torch.float32) == SEGMENTS
    assert choose_attention("Auto", gpu, torch.bfloat16) == FLASH
    assert choose_attention("Auto", gpu, torch.float32) == SEGMENTS
    assert choose_attention("Flex", cpu, torch.float32) == FLEX
    with pytest.raises(ConfigError, match="attention is Flash, which needs a CUDA GPU and precision bf16; this is cpu"):
        choose_attention("Flash", cpu, torch.bfloat16)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2}, "sliding window"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    ],
)
def test_a_model_that_computes_what_we_do_not_is_refused(model_folder, tmp_path, changed, says):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ConfigError, match=f"{says}.*the trainer does not compute"):
        load_policy(tmp_path, dtype=torch.float32)(collate(documents()))


@pytest.mark.parametrize("name", [SEGMENTS, BLOCK_MASK, FLASH])
def test_a_change_in_one_document_changes_no_other(model_folder, name, monkeypatch):
    docs = documents()
    policy = policy_with(model_folder, name, monkeypatch)
    changed = [Document([5] * len(d.tokens), d.weights, index=d.index) if d.index == 1 else d for d in docs]
    with torch.no_grad():
        before, after = policy(collate(docs))[0], policy(collate(changed))[0]
    others = collate(docs).sample != 1
    assert torch.equal(before[others], after[others])
    assert not torch.allclose(before[~others], after[~others])


def test_recomputed_activations_give_the_same_gradients(model_folder):
    docs = documents()
    grads = []
    for kept in ("None", "Full", "Offload"):
        options = PolicyOptions(activation_checkpointing=kept)
        policy = load_policy(model_folder, dtype=torch.float32, options=options).train()
        policy(collate(docs))[0].sum().backward()
        grads.append(policy.causal_lm.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(grads[2], grads[0])


PROMPTS = {7: 4, 12: 3, 1: 2, 5: 1}  # a prompt's length, and how many documents begin with it


def groups(seed: int = 0) -> list[Document]:
    """Samples of several prompts, in no order, and documents that share nothing."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(length: int) -> list[int]:
        return torch.randint(4, 300, (length,), generator=generator).tolist()

    found = [document for document in documents(seed) if len(document.tokens) > 9]
    for length, samples in PROMPTS.items():
        prompt = drawn(length)
        for _ in range(samples):
            answer = drawn(int(torch.randint(1, 40, (), generator=generator)))
            found.append(Document([*prompt, *answer], [0.0] * length + [0.7] * len(answer), prompt=length))
    order = torch.randperm(len(found), generator=generator).tolist()
    return [replace(found[at], index=index) for index, at in enumerate(order)]


@pytest.mark.parametrize("name", [SEGMENTS, BLOCK_MASK, FLASH])
def test_a_prompt_laid_down_once_gives_what_each_sample_gives_alone(model_folder, name, monkeypatch):
    docs = groups()
    policy = policy_with(model_folder, name, monkeypatch)
    shared = collate(docs, share=True)
    assert shared.tokens == sum(len(d.tokens) for d in docs) - sum(length * (n - 1) for length, n in PROMPTS.items())
    assert_as_alone(policy, shared, docs, model_folder, temperature=0.8)


@pytest.mark.parametrize("name", [SEGMENTS, BLOCK_MASK, FLASH])
def test_samples_that_are_alike_are_computed_once_and_all_count(model_folder, name, monkeypatch):
    first = groups()
    again = [replace(document, index=len(first) + at) for at, document in enumerate(first[:-1:2])]
    docs = [*first, *again]
    policy = policy_with(model_folder, name, monkeypatch)
    twice = collate(docs, share=True)
    assert twice.tokens == collate(first, share=True).tokens + sum(len(d.tokens) for d in again if not d.prompt)
    assert any(document.prompt for document in again)
    assert_as_alone(policy, twice, docs, model_folder)


@pytest.mark.parametrize("name", [SEGMENTS, BLOCK_MASK, FLASH])
def test_samples_behind_one_prompt_do_not_see_each_other(model_folder, name, monkeypatch):
    docs = groups()
    changed = next(document for document in docs if document.prompt == 7)
    answer = [5] * (len(changed.tokens) - 7)
    other = [replace(d, tokens=[*d.tokens[:7], *answer]) if d is changed else d for d in docs]
    policy = policy_with(model_folder, name, monkeypatch)
    with torch.no_grad():
        before, after = (policy(collate(each, share=True))[0] for each in (docs, other))
    rest = collate(docs, share=True).sample != changed.index
    assert torch.equal(before[rest], after[rest])
    assert not torch.allclose(before[~rest], after[~rest])


def test_each_token_has_its_own_slot_and_padding_none():
    plan = segments(Layout(tuple(LENGTHS)))
    assert plan.places.home.unique().numel() == sum(LENGTHS)
    assert torch.equal(plan.places.token[plan.places.home], torch.arange(sum(LENGTHS)))
    assert not plan.places.unread[plan.places.home].any()
    assert sum(count * width for count, width in plan.buckets) <= 2 * sum(LENGTHS)


def test_block_mask_is_causal_within_documents():
    mask = block_mask(Layout((2, 3)))[0, 0]
    starts = [0, *accumulate([2, 3])]
    expected = [[k <= q and (k >= starts[1]) == (q >= starts[1]) for k in range(5)] for q in range(5)]
    assert mask.tolist() == expected
