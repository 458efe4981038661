"""vLLM's own API server, started faster on CPUs: `python -m qednano.llm.vllm_entry <vLLM's arguments>`.

vLLM looks at the model's class and then starts its engine, each in a fresh interpreter that imports torch and vLLM
again (8 and 11 s of CPU, against 10 s for the rest). The reasons are GPU contexts and running OpenMP threads; neither
exists here at that point. So the class is looked at in this process and the engine's process is forked from it.

Without a compiler vLLM also computes each norm with half a dozen of PyTorch's operators, though its build for CPUs has
kernels of its own for them; for small models that is a tenth of a step.
"""

from __future__ import annotations

import os
import runpy
from typing import Any


def use_kernels() -> None:
    """Let norms be computed by the kernels of vLLM's build, where it has them."""
    import torch
    from torch import Tensor
    from vllm import _custom_ops  # noqa: F401  (it loads the build)
    from vllm.model_executor.layers.layernorm import RMSNorm

    def norm(self: Any, x: Tensor, residual: Tensor | None = None) -> Any:
        plain = self.variance_size_override is None and self.has_weight and x.dtype == self.weight.dtype
        if not plain:
            return native(self, x, residual)
        if residual is not None:
            kernels.fused_add_rms_norm(x, residual, self.weight, self.variance_epsilon)
            return x, residual
        x = x.contiguous()
        out = torch.empty_like(x)
        kernels.rms_norm(out, x, self.weight, self.variance_epsilon)
        return out

    kernels = torch.ops._C
    native = RMSNorm.forward_native
    if all(hasattr(kernels, name) for name in ("rms_norm", "fused_add_rms_norm")):
        setattr(RMSNorm, "forward_cpu", norm)  # noqa: B010


def decode_no_logprobs() -> None:
    """Let tokens of log-probs go without their texts. `--return-tokens-as-token-ids` has vLLM tell of none of them, but
    it decodes each all the same, one by one."""
    from vllm.v1.engine.logprobs import LogprobsProcessor

    make = LogprobsProcessor.from_new_request

    def from_new_request(tokenizer: Any, request: Any) -> Any:
        return make(None, request)

    setattr(LogprobsProcessor, "from_new_request", staticmethod(from_new_request))  # noqa: B010


def main() -> None:
    from vllm.model_executor.models import registry
    from vllm.platforms.cpu import CpuPlatform

    use_kernels()
    decode_no_logprobs()
    configure = CpuPlatform.check_and_update_config  # bound to the class

    def check_and_update_config(vllm_config: Any) -> None:
        configure(vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    setattr(CpuPlatform, "check_and_update_config", staticmethod(check_and_update_config))  # noqa: B010
    registry._run_in_subprocess = lambda fn: fn()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
