"""Let vLLM itself load model folders, one after another, and write twelve likeliest tokens with each.

python -m tests.llm.direct_load <model folder> ...; prints a JSON list of {"ids": [...], "logprobs": [...]}.
"""

from __future__ import annotations

import json
import os
import sys

from qednano.llm.vllm import VllmOptions, environment

PROMPT = [10, 11, 12, 13]
TOKENS = 12


def main(folders: list[str]) -> None:
    """See above."""
    os.environ.update(environment(VllmOptions(folders[0], 0, 128, 4), {}))
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    found = []
    for folder in folders:
        model = LLM(
            model=folder,
            dtype="float32",
            max_model_len=128,
            max_num_seqs=4,
            enforce_eager=True,
            enable_chunked_prefill=False,
            generation_config="vllm",
        )
        sampling = SamplingParams(max_tokens=TOKENS, temperature=0.0, logprobs=0, ignore_eos=True)
        (answer,) = model.generate([{"prompt_token_ids": PROMPT}], sampling, use_tqdm=False)
        ids = list(answer.outputs[0].token_ids)
        logprobs = [place[token].logprob for place, token in zip(answer.outputs[0].logprobs, ids, strict=True)]
        found.append({"ids": ids, "logprobs": logprobs})
        del model, answer  # else the end of this engine would tear down the process groups of the next
        cleanup_dist_env_and_memory()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
