from __future__ import annotations

import pytest

from qednano.errors import ConfigError
from qednano.tiny import model

SMALL = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "mlp_size": 96, "max_length": 64}


def test_the_folder_loads_with_transformers_and_gives_logits_over_the_vocabulary(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parameters = model.init(tmp_path, **SMALL, seed=1)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer("n = 5k + 2")["input_ids"]])
    assert loaded(ids).logits.shape == (*ids.shape, len(tokenizer))
    assert parameters == sum(parameter.numel() for parameter in loaded.parameters())
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone(tmp_path):
    import torch

    before = torch.random.get_rng_state()
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        model.init(tmp_path / name, **SMALL, seed=seed)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_sizes_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="heads 3"):
        model.init(tmp_path, hidden_size=64, heads=3)
    assert not list(tmp_path.iterdir())
