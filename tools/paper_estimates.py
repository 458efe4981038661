"""Hours of the published recipe, by its manifests: `python -m tools.paper_estimates` writes them to docs/reproduce.md.

Nothing here is measured: tokens follow from the manifests and a mean length, time from the arithmetic of the model and
of an H100. Nvidia's data sheet gives the card's rates; the shares of them that are reached are assumptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs/reproduce.md"
BEGIN, END = "<!-- hours: written by tools/paper_estimates.py -->\n", "<!-- end of hours -->\n"

PARAMETERS, LAYERS, HEADS_WIDTH, KV_WIDTH = 4.02e9, 36, 32 * 128, 8 * 128  # Qwen3-4B
PEAK, BANDWIDTH = 989e12, 3.35e12  # of an H100 SXM: dense bf16 FLOP/s, bytes/s
MFU, READING = 0.40, 0.60  # shares of them that training and decoding reach
GRADE_TOKENS, GRADER_RATE = 8_000, 3_000  # tokens of a grading; tokens/s of a GPU with gpt-oss-20b
LENGTHS = (15_000, 30_000, 45_000)  # mean tokens of a proof with its thinking


def training_flops(length: float) -> float:
    """FLOP a token of training on rows of this length: forward and backward, and causal attention over half the row.

    6 N + 6 · layers · length · width (Megatron-LM's count, without what is computed again).
    """
    return 6 * PARAMETERS + 6 * LAYERS * length * HEADS_WIDTH


def training_seconds(tokens: float, length: float, gpus: int) -> float:
    """Time to train on so many tokens."""
    return tokens * training_flops(length) / (gpus * PEAK * MFU)


def decoding_rate(length: float, requests: int) -> float:
    """Tokens/s of a server with so many requests under way: each step reads the weights and half of every context."""
    read = 2 * PARAMETERS + requests * (length / 2) * LAYERS * 2 * KV_WIDTH * 2
    return requests * BANDWIDTH * READING / read


@dataclass(frozen=True)
class Row:
    """One run: its GPUs, and hours for each of `LENGTHS`."""

    what: str
    manifest: str
    gpus: int
    hours: Sequence[float]
    bound: str


def _spec(file: str, name: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((REPOSITORY / "examples/paper" / file).read_text())
    found: dict[str, Any] = next(item["spec"] for item in documents if item["metadata"]["name"] == name)
    return found


def _sft() -> Row:
    spec = _spec("2-sft.yaml", "qed-nano-sft")["trainer"]
    tokens, gpus = spec["batchTokens"] * spec["maxSteps"], spec["resources"]["gpus"]
    hours = [training_seconds(tokens, length, gpus) / 3600 for length in LENGTHS]
    return Row("SFT", "2-sft.yaml", gpus, hours, f"{tokens / 1e9:.2f} billion tokens")


def rl_step(spec: dict[str, Any], length: float) -> dict[str, float]:
    """Seconds a step that sampling, grading and training would each take alone; the longest one rules."""
    samples = spec["algorithm"]["groupSize"] * spec["algorithm"]["problemsPerStep"]
    cache = spec.get("reasoningCache")
    # One walk of the cache, turn after turn, serves the groups of all states that are drawn for a problem.
    walks = 0
    if cache:
        walks = spec["algorithm"]["problemsPerStep"] / cache["statesPerProblem"] * cache["cycles"]
    rollout, server = spec["rollout"], spec["grader"]["rubric"]["model"]["server"]
    rate = rollout["replicas"] * decoding_rate(length, rollout["maxConcurrent"])
    return {
        "sampling": (samples + walks) * length / rate,
        "grading": samples * GRADE_TOKENS / (server["replicas"] * GRADER_RATE),
        "training": training_seconds(samples * length, length, spec["trainer"]["resources"]["gpus"]),
    }


def _rl(name: str, what: str) -> Row:
    spec = _spec("3-rl.yaml", name)
    steps = [rl_step(spec, length) for length in LENGTHS]
    hours = [max(step.values()) * spec["algorithm"]["maxSteps"] / 3600 for step in steps]
    helpers = spec["grader"]["rubric"]["model"]["server"]["replicas"]
    helpers += spec.get("reasoningCache", {}).get("summariser", {}).get("server", {}).get("replicas", 0)
    bounds = dict.fromkeys(max(step, key=lambda part: step[part]) for step in steps)
    gpus = spec["rollout"]["replicas"] + spec["trainer"]["resources"]["gpus"] + helpers
    return Row(what, "3-rl.yaml", gpus, hours, f"{' or '.join(bounds)} rules, {spec['algorithm']['maxSteps']} steps")


def _evaluation(name: str, what: str, tokens_a_problem: float) -> Row:
    spec = _spec("4-eval.yaml", name)
    models = 1 + len(spec.get("baselines", []))
    samples = spec.get("samplesPerProblem", 1) * models
    server = spec["server"]
    hours = []
    for length in LENGTHS:
        tokens = 60 * samples * (tokens_a_problem or length)
        hours.append(tokens / (server["replicas"] * decoding_rate(length, server["maxConcurrent"])) / 3600)
    why = f"60 problems × {samples} answers" if not tokens_a_problem else "60 problems × 1.2 million tokens"
    return Row(what, "4-eval.yaml", server["replicas"], hours, why)


def rows() -> list[Row]:
    """Every run that uses GPUs."""
    return [
        _sft(),
        _rl("qed-nano", "RL"),
        _rl("qed-nano-rc", "RL with the reasoning cache"),
        _evaluation("qed-nano-eval", "evaluation, single pass, three models", 0),
        _evaluation("qed-nano-verify-refine", "evaluation, verify and refine", 1.2e6),
    ]


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def table() -> str:
    """The table of the page."""
    head = [f"hours at {length // 1000},000 tokens a proof" for length in LENGTHS]
    lines = [
        f"| run | manifest | H100s | {' | '.join(head)} | what counts |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.what} | `{row.manifest}` | {row.gpus} | {' | '.join(map(_hours, row.hours))} | {row.bound} |"
            for row in rows()
        ),
    ]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with its table as it should be."""
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:start]}\n{table()}\n{text[end:]}"


def main() -> None:
    """Write the table."""
    PAGE.write_text(page(PAGE.read_text()))
    print(f"wrote the table of {PAGE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
