"""An untrained Qwen3 of a few hundred thousand parameters, written as an ordinary Hugging Face model folder."""

from __future__ import annotations

from pathlib import Path

from qednano.errors import ConfigError
from qednano.tiny import tokenizer as tiny_tokenizer


def init(
    folder: Path | str,
    *,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    mlp_size: int = 384,
    max_length: int = 256,
    seed: int = 0,
) -> int:
    """Write config, fp32 safetensors, tokenizer and chat template into `folder`; returns the number of parameters.

    The same arguments give the same bytes. Raises ConfigError for sizes that don't divide.
    """
    if hidden_size % heads or heads % kv_heads or (hidden_size // heads) % 2:
        raise ConfigError(
            f"hiddenSize {hidden_size}, heads {heads}, kvHeads {kv_heads}: hiddenSize must be an even multiple of "
            "heads, and heads a multiple of kvHeads"
        )
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer.save(folder, max_length)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden_size // heads,
        intermediate_size=mlp_size,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=True
    )
    model.save_pretrained(str(folder), safe_serialization=True)
    return sum(parameter.numel() for parameter in model.parameters())
