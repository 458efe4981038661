"""vLLM's own API server, started faster on CPUs: `python -m qednano.llm.vllm_entry <vLLM's arguments>`.

On CPUs vLLM starts its engine in a fresh interpreter, which imports torch and vLLM a second time (about 11 s of CPU,
half of the start). Nothing there needs a fresh interpreter as long as no OpenMP threads exist yet, so the engine
process is forked instead. Nothing else is changed.
"""

from __future__ import annotations

import os
import runpy
from typing import Any


def main() -> None:
    from vllm.platforms.cpu import CpuPlatform

    configure = CpuPlatform.check_and_update_config  # bound to the class

    def check_and_update_config(vllm_config: Any) -> None:
        configure(vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    setattr(CpuPlatform, "check_and_update_config", staticmethod(check_and_update_config))  # noqa: B010
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
