from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qednano.tiny import teacher, tokenizer
from qednano.tiny.problems import generate


@pytest.fixture(scope="module")
def tok():
    return tokenizer.build()


def conversation(problem, proof):
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": proof}]


def test_problems_and_proofs_decode_to_exactly_their_text(tok):
    for problem in generate(0, 200, max_difficulty=10):
        for text in (problem.text, teacher.write(problem, random.Random(0))):
            assert tok.decode(tok(text)["input_ids"]) == text


@settings(max_examples=200)
@given(text=st.text(max_size=80))
def test_any_text_decodes_to_itself(tok, text):
    assert tok.decode(tok(text)["input_ids"]) == text


def test_proofs_are_short_in_tokens_and_numbers_below_100_are_single(tok):
    drawn = list(generate(0, 400, families=["linear"], max_difficulty=1))
    prompts = [len(tok(problem.text)["input_ids"]) + 2 for problem in drawn]
    proofs = [len(tok(teacher.write(problem, random.Random(0)))["input_ids"]) + 1 for problem in drawn]
    assert max(prompts) <= 25
    assert sum(proofs) / len(proofs) <= 40
    assert [tok.decode([number]) for number in tok("7 + 48 = 155")["input_ids"]] == ["7", " + ", "48", " = ", "15", "5"]


def test_the_template_is_the_prompt_plus_the_proof_and_its_end(tok):
    problem = next(generate(0, 1))
    proof = teacher.write(problem, random.Random(0))
    prompt = tok.apply_chat_template(conversation(problem.text, proof)[:1], add_generation_prompt=True, tokenize=False)
    assert prompt == f"<|user|>{problem.text}<|assistant|>"
    whole = tok.apply_chat_template(
        conversation(problem.text, proof), return_dict=True, return_assistant_tokens_mask=True
    )
    prompt_ids = tok(prompt, add_special_tokens=False)["input_ids"]
    proof_ids = tok(proof, add_special_tokens=False)["input_ids"]
    assert whole["input_ids"] == [*prompt_ids, *proof_ids, tok.eos_token_id]
    assert whole["assistant_masks"] == [0] * len(prompt_ids) + [1] * (len(proof_ids) + 1)


def test_another_role_is_refused(tok):
    with pytest.raises(Exception, match="user and assistant only"):
        tok.apply_chat_template([{"role": "system", "content": "Be brief."}], tokenize=False)


def test_a_saved_tokenizer_loads_as_the_same(tok, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    problem = next(generate(0, 1))
    assert loaded(problem.text)["input_ids"] == tok(problem.text)["input_ids"]
    assert loaded.chat_template == tok.chat_template
    assert (loaded.eos_token, loaded.pad_token) == ("<|end|>", "<|pad|>")
