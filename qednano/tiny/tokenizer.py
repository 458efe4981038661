"""The tiny task's tokenizer: a real Hugging Face fast tokenizer in which the phrases of a proof are single tokens.

Numbers below 100 are one token each, so that a sum is one choice (with a token for each digit a small model needs twice
the training). Phrases carry their own spaces, so decoding is the plain concatenation of tokens and gives back exactly
the text. Any other text is spelt in characters or, failing that, in bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, USER, ASSISTANT)

PHRASES = (
    "n = ", ", x = ", ", E = ", "n + ", "n^2 + ", "x + ", ". Prove ", "E ≡ ", " (mod ", " | E.", ").",
    "\nE = ", ")\nSo ", "\nSo E ≡ ", "\nSo ", "So ", "E = ", "n^2 = ", "x = ",
    "k^2 + ", "k + ", "l + ", " + ", " = ", ") + ",
)  # fmt: skip

NUMBERS = tuple(str(number) for number in range(10, 100))  # 0..9 are among the characters

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ '" + USER + "' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '" + ASSISTANT + "' }}"
    "{%- generation -%}{{ message['content'] + '" + END + "' }}{%- endgeneration -%}"
    "{%- else -%}{{ raise_exception('the tiny model knows the roles user and assistant only') }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + ASSISTANT + "' }}{%- endif -%}"
)


def build() -> PreTrainedTokenizerFast:
    """The tokenizer, with its chat template; the same one every time."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    printable = [chr(code) for code in range(32, 127)]
    pieces = [*SPECIAL, *PHRASES, *NUMBERS, *printable, "\n", "≡", "∤", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, ignore_merges=True))
    longest_first = sorted((*PHRASES, *NUMBERS), key=len, reverse=True)
    whole = "|".join(re.escape(piece) for piece in longest_first)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(whole), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save(folder: Path | str, max_length: int = 256) -> PreTrainedTokenizerFast:
    """Write tokenizer.json, tokenizer_config.json and the chat template into `folder`, and return the tokenizer."""
    tokenizer = build()
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(str(folder))
    return tokenizer
