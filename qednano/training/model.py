"""A Hugging Face causal language model as the trainer uses it: packed rows in, log-probs out, plain folder back out."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qednano.errors import ConfigError
from qednano.training import attention
from qednano.training.flops import model_flops
from qednano.training.logprobs import LogProbHead
from qednano.training.lora import LoraConfig, add_adapters
from qednano.training.packing import Layout, MicroBatch
from qednano.training.sequence import ALONE, SequenceGroup, SharedAttention, assemble, check_heads
from qednano.training.thrifty import make_thrifty

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOGITS_ALTERED = {"final_logit_softcapping": None, "logits_scaling": 1, "logit_scale": 1}  # and what leaves them alone
_BESIDE_WEIGHTS = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab*",
                   "merges.txt", "added_tokens.json", "chat_template*")  # fmt: skip


def check_model_folder(folder: Path) -> None:
    """Raise ConfigError naming what is missing unless `folder` holds a model, its tokenizer and its chat template."""
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    if not _has_chat_template(folder):
        missing.append("a chat template")
    if missing:
        there = "is not a folder" if not folder.is_dir() else f"lacks {', '.join(missing)}"
        raise ConfigError(
            f"{folder} is not a model: it {there}; give spec.model a folder of Hugging Face files "
            "(config.json, safetensors, tokenizer, chat template)"
        )


def _has_chat_template(folder: Path) -> bool:
    if list(folder.glob("chat_template*")):
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    except (OSError, ValueError):
        return False


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; ConfigError when it can't be loaded or has no end-of-sequence token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"the tokenizer in {folder} can't be loaded: {error}") from None
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer in {folder} has no end-of-sequence token; set eos_token in its config")
    return tokenizer


@dataclass(frozen=True)
class PolicyOptions:
    """How a policy computes: `attention` as in `attention.choose_attention`; `activation_checkpointing` is None, Full
    or Offload; `lora` adapters, made from `seed`; the ranks that share each row."""

    attention: str = "Auto"
    activation_checkpointing: str = "None"
    lora: LoraConfig | None = None
    sequence: SequenceGroup = ALONE
    seed: int = 0


class Policy(nn.Module):
    """A causal language model whose forward gives log-probs and entropies of a micro-batch's targets."""

    def __init__(self, causal_lm: PreTrainedModel, options: PolicyOptions, attention_name: str) -> None:
        super().__init__()
        attention.register()
        causal_lm.set_attn_implementation(attention.IMPLEMENTATION)
        causal_lm.config.use_cache = False
        causal_lm.lm_head = LogProbHead(causal_lm.lm_head)
        make_thrifty(causal_lm)
        self.causal_lm = causal_lm
        self.attention_name = attention_name
        self.sequence = options.sequence
        self.lora = options.lora
        self.flops = model_flops(causal_lm.config, trained=options.lora is None)
        self.offload = options.activation_checkpointing == "Offload"
        if options.activation_checkpointing != "None":
            causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def forward(
        self, batch: MicroBatch, temperature: float = 1.0, coefficients: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] and entropies [N] of `batch.targets` under the policy at `temperature`.

        `coefficients` [N]: see `chunked_logprobs`.
        """
        device, sequence = batch.input_ids.device, self.sequence
        input_ids, position_ids, layout = batch.input_ids, batch.position_ids, batch.layout
        if more := sequence.padding(batch.tokens):
            layout = Layout((*layout.lengths, more))  # a document of its own, so that nobody sees it
            input_ids, position_ids = (nn.functional.pad(x, (0, more)) for x in (input_ids, position_ids))
        attend = attention.document_attention(self.attention_name, layout, device)
        start, end = sequence.bounds(sum(layout.lengths))
        if sequence.size > 1:
            assert not batch.layout.shared, "ranks that share rows can't share prompts too"
            attend = SharedAttention(attend, sequence)
        # Around checkpointed layers the only tensors autograd still saves are their inputs.
        away = torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda") if self.offload else nullcontext()
        with away:
            hidden = self.causal_lm.model(
                input_ids=input_ids[:, start:end],
                position_ids=position_ids[:, start:end],
                use_cache=False,
                documents=attend,
            ).last_hidden_state[0]
        if sequence.size == 1:
            found: tuple[Tensor, Tensor] = self.causal_lm.lm_head(
                hidden.index_select(0, batch.predictors), batch.targets, temperature, coefficients
            )
            return found
        # Predictors ascend, so those in this rank's slice are neighbours.
        first, last = (int((batch.predictors < bound).sum()) for bound in (start, end))
        mine = hidden.index_select(0, batch.predictors[first:last] - start)
        known = None if coefficients is None else coefficients[first:last]
        pair = torch.stack(self.causal_lm.lm_head(mine, batch.targets[first:last], temperature, known))
        logprobs, entropies = assemble(pair, first, len(batch.targets), sequence)
        return logprobs, entropies


def load_policy(folder: Path, *, dtype: torch.dtype, options: PolicyOptions = PolicyOptions()) -> Policy:
    """The policy in `folder`, on this process's device. Raises ConfigError for what it can't be."""
    check_model_folder(folder)
    from transformers import AutoModelForCausalLM

    attention.register()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention_name = attention.choose_attention(options.attention, device, dtype)
    try:
        causal_lm = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"the model in {folder} can't be loaded: {error}") from None
    config = causal_lm.config
    for name, harmless in _LOGITS_ALTERED.items():
        if getattr(config, name, harmless) not in (None, harmless):
            raise ConfigError(
                f"the model in {folder} alters its logits ({name} is {getattr(config, name)}), which the trainer does "
                "not compute: it would train another function than servers compute. Give spec.model a model without"
            )
    heads = config.num_attention_heads
    check_heads(heads, getattr(config, "num_key_value_heads", None) or heads, options.sequence.size)
    if options.lora is not None:
        add_adapters(causal_lm, options.lora, options.seed)
    return Policy(causal_lm, options, attention_name).to(device)


def write_model_folder(weights: dict[str, Tensor], source: Path, folder: Path) -> None:
    """Write `weights` as safetensors with the configuration, tokenizer and chat template of `source` beside them."""
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _BESIDE_WEIGHTS:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_torch_state_dict(weights, folder, metadata={"format": "pt"})
