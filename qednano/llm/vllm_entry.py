"""vLLM's own API server, started faster on CPUs: `python -m qednano.llm.vllm_entry <vLLM's arguments>`.

vLLM looks at the model's class and then starts its engine, each in a fresh interpreter that imports torch and vLLM
again (8 and 11 s of CPU, against 10 s for the rest). The reasons are GPU contexts and running OpenMP threads; neither
exists here at that point. So the class is looked at in this process and the engine's process is forked from it.
"""

from __future__ import annotations

import os
import runpy
from typing import Any


def main() -> None:
    from vllm.model_executor.models import registry
    from vllm.platforms.cpu import CpuPlatform

    configure = CpuPlatform.check_and_update_config  # bound to the class

    def check_and_update_config(vllm_config: Any) -> None:
        configure(vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    setattr(CpuPlatform, "check_and_update_config", staticmethod(check_and_update_config))  # noqa: B010
    registry._run_in_subprocess = lambda fn: fn()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
