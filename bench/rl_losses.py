"""Loss and gradient of each algorithm against TRL's own GRPOTrainer, on one small Qwen3 and the same samples.

Both sides go the whole way: here groups become documents, packed into micro-batches without padding, chunked
log-probs and `PolicyLoss`; there a padded batch goes through `GRPOTrainer._compute_loss`. The behaviour policy is far
from the current one, so that every clip cuts somewhere. Compared are the step's loss and the gradient of all weights.

    python -m bench.rl_losses [--trl-python PYTHON]

What TRL names otherwise: PPO with SequenceMean is its `grpo`, with TokenMean `dapo`, with Constant `dr_grpo` (over a
completion length of 1); GSPO is `grpo` at the level of sequences; its `cispo` has no lower bound; REINFORCE with
truncated importance weights is `cispo` on policy with vLLM's correction by `token_truncate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import report
from bench.peer import trl_python

LIMIT = 1e-5  # of the loss, and of the gradient's difference over its norm
CAP = 1.5  # of an importance weight: small, so that many tokens are cut
PROMPT, COMPLETION, GROUPS, GROUP_SIZE = 6, 24, 3, 4


@dataclass(frozen=True)
class Case:
    """One algorithm: its fields here, and what GRPOTrainer has to be told."""

    ours: dict[str, Any]
    aggregation: str
    theirs: dict[str, Any]


CASES = {
    "REINFORCE, TokenMean": Case(
        {"loss": "REINFORCE", "importance_cap": CAP},
        "TokenMean",
        {"loss_type": "cispo", "epsilon_high": CAP, "use_vllm": True},
    ),
    "PPO, SequenceMean": Case({"loss": "PPO", "clip_high": 0.3}, "SequenceMean", {"loss_type": "grpo"}),
    "PPO, TokenMean": Case({"loss": "PPO", "clip_high": 0.3}, "TokenMean", {"loss_type": "dapo"}),
    "PPO, Constant": Case({"loss": "PPO", "clip_high": 0.3}, "Constant", {"loss_type": "dr_grpo"}),
    "CISPO, TokenMean": Case(
        {"loss": "CISPO", "clip_low": 1.0, "clip_high": CAP - 1},
        "TokenMean",
        {"loss_type": "cispo", "epsilon_high": CAP},
    ),
    "GSPO, SequenceMean": Case(
        {"loss": "GSPO", "clip_low": 0.05, "clip_high": 0.1},
        "SequenceMean",
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.05,
            "epsilon_high": 0.1,
        },
    ),
    "PPO, k3 to a reference": Case(
        {"loss": "PPO", "clip_high": 0.3, "kl": "k3", "kl_weight": 0.2}, "TokenMean", {"loss_type": "dapo", "beta": 0.2}
    ),
    "PPO, entropy bonus": Case(
        {"loss": "PPO", "clip_high": 0.3, "entropy_bonus": 0.1},
        "TokenMean",
        {"loss_type": "dapo", "entropy_coef": 0.1, "_entropy_bonus_enabled": True},
    ),
}
DEFAULTS = {
    "use_vllm": False, "vllm_importance_sampling_correction": True, "importance_sampling_level": "token", "beta": 0.0,
    "epsilon_low": 0.2, "epsilon_high": 0.3, "max_completion_length": 1, "_entropy_bonus_enabled": False,
    "entropy_coef": 0.0, "current_gradient_accumulation_steps": 1,
}  # fmt: skip


def make_groups(policy: Any) -> list[Any]:
    """Groups of random tokens; behaviour and reference log-probs are the policy's own with noise."""
    import torch

    from qednano.rl.stream import Group, Sample
    from qednano.training.packing import Document, collate

    torch.manual_seed(1)
    vocabulary = policy.causal_lm.config.vocab_size
    groups = []
    for number in range(GROUPS):
        prompt = torch.randint(0, vocabulary, (PROMPT + number,)).tolist()
        samples = []
        for _ in range(GROUP_SIZE):
            completion = torch.randint(0, vocabulary, (int(torch.randint(2, COMPLETION, ())),)).tolist()
            document = Document(prompt + completion, [0.0] * len(prompt) + [1.0] * len(completion))
            with torch.no_grad():
                own, _ = policy(collate([document]))
            behaviour, reference = (own + 0.4 * torch.randn(len(own)) for _ in range(2))
            samples.append(
                Sample(
                    prompt, completion, behaviour.tolist(), float(torch.rand(())), 0, 0, "stop", reference.tolist()
                )
            )  # fmt: skip
        groups.append(Group(f"g{number}", f"p{number}", samples))
    return groups


def our_step(policy: Any, groups: list[Any], case: Case) -> float:
    """The loss of the step; gradients are left on the policy."""
    from qednano.rl.losses import LossConfig
    from qednano.rl.trainer import FIELDS, REFERENCE, PolicyLoss, TrainerConfig, step_documents
    from qednano.training.packing import collate

    loss = PolicyLoss(LossConfig(**case.ours))
    config = TrainerConfig(
        loss.config, "MeanCentred", case.aggregation, GROUPS, GROUP_SIZE, 1, 0, 512, served_reference=True
    )
    documents = step_documents(groups, config)
    total = 0.0
    for part in (documents[::2], documents[1::2]):  # two micro-batches
        batch = collate(part, (*FIELDS, REFERENCE))
        terms = loss(batch, *policy(batch))
        terms.total.backward()
        total += float(terms.total.detach())
    return total


def their_step(trainer: Any, groups: list[Any], case: Case) -> float:
    """The loss by TRL; gradients are left on the trainer's model."""
    import torch

    for name, value in {**DEFAULTS, **case.theirs}.items():
        setattr(trainer, name, value)
    trainer.args.use_bias_correction_kl = False  # it would weigh the KL term by the importance ratio
    samples = [sample for group in groups for sample in group.samples]
    longest = max(len(sample.prompt_ids) for sample in samples)
    width = max(len(sample.completion_ids) for sample in samples)

    def completions(values: list[list[float]], kind: torch.dtype) -> torch.Tensor:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in values], dtype=kind)

    def prompts(values: list[list[int]]) -> torch.Tensor:
        return torch.tensor([[*[0] * (longest - len(row)), *row] for row in values])

    means = [sum(sample.reward for sample in group.samples) / len(group.samples) for group in groups]
    inputs = {
        "prompt_ids": prompts([sample.prompt_ids for sample in samples]),
        "prompt_mask": prompts([[1] * len(sample.prompt_ids) for sample in samples]),
        "completion_ids": completions([sample.completion_ids for sample in samples], torch.int64),
        "completion_mask": completions([[1] * len(sample.completion_ids) for sample in samples], torch.int64),
        "old_per_token_logps": completions([sample.logprobs for sample in samples], torch.float32),
        "ref_per_token_logps": completions([sample.reference for sample in samples], torch.float32),
        "advantages": torch.tensor(
            [sample.reward - mean for group, mean in zip(groups, means, strict=True) for sample in group.samples]
        ),
    }
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    if trainer.use_vllm:
        _correct_by_vllm(trainer, inputs)
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss.detach())


def _correct_by_vllm(trainer: Any, inputs: dict[str, Any]) -> None:
    """What GRPOTrainer does before the loss when vLLM sampled: old log-probs are the trainer's own, the sampler's make
    the importance weights, truncated (its mode token_truncate)."""
    import torch

    with torch.no_grad():
        own, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].size(1),
        )
        difference = (own - inputs["old_per_token_logps"]) * inputs["completion_mask"]
        inputs["importance_sampling_ratio"] = difference.exp().clamp(max=CAP)
        inputs["old_per_token_logps"] = own


def compare(folder: Path) -> dict[str, float]:
    """Differences by case, in an interpreter that has both."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from qednano.tiny.model import init
    from qednano.training.model import load_policy

    torch.set_num_threads(1)
    init(folder / "model", seed=0)
    policy = load_policy(folder / "model", dtype=torch.float32)
    groups = make_groups(policy)
    config = GRPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=GROUPS * GROUP_SIZE, num_generations=GROUP_SIZE,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], temperature=1.0,
    )  # fmt: skip
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "x"}] * 12),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    figures = {}
    for name, case in CASES.items():
        policy.zero_grad()
        trainer.model.zero_grad()
        losses = [our_step(policy, groups, case), their_step(trainer, groups, case)]
        theirs = dict(trainer.model.named_parameters())
        ours = {key.removeprefix("causal_lm."): value.grad for key, value in policy.named_parameters()}
        assert ours.keys() == theirs.keys()
        gap = sum(float((ours[key] - value.grad).double().square().sum()) for key, value in theirs.items())
        norm = sum(float(value.grad.double().square().sum()) for value in theirs.values())
        figures |= {f"{name}: loss": abs(losses[0] - losses[1]), f"{name}: gradient": (gap / norm) ** 0.5}
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default="", help="an interpreter that has TRL")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(compare(Path(folder))))
        return 0
    done = subprocess.run(
        [args.trl_python or str(trl_python()), "-W", "ignore", "-m", "bench.rl_losses", "--side"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"TRL's side failed:\n{done.stderr[-4000:]}")
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    for name, value in figures.items():
        print(f"{name}: {value:.1e}", file=sys.stderr)
    return report("RL losses against TRL's GRPOTrainer", figures, dict.fromkeys(figures, ("<=", LIMIT)))


if __name__ == "__main__":
    sys.exit(main())
