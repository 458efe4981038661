"""What is added to vLLM's worker: loading a folder's weights in place, all of them.

vLLM's own `reload_weights` leaves one thing behind on CPUs. Where input and output embeddings are tied, the output
layer holds a packed copy of the matrix, made at the first load; no weight of the checkpoint has that layer's name, so
a reload never makes the copy anew, and the server samples from new weights with an old output layer.
"""

from __future__ import annotations

import time
from typing import Any


class WeightReload:
    """Mixed into vLLM's worker by `--worker-extension-cls`; reached through /collective_rpc."""

    def load_folder(self: Any, folder: str) -> dict[str, float]:
        """Load the safetensors of `folder` over the weights in use, between two steps; the seconds it took."""
        began = time.monotonic()
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        self.reload_weights(weights_path=folder)
        if current_platform.is_cpu():
            for layer in self.model_runner.get_model().modules():
                if isinstance(layer, ParallelLMHead) and hasattr(layer, "cpu_linear"):
                    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
        return {"seconds": time.monotonic() - began}
