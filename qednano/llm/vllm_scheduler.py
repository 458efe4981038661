"""vLLM's scheduler, which tells of a request's tokens in bunches (`--scheduler-cls`).

Its engine tells the API server of each token of each request by itself, also where clients are told only every so many
tokens (`--stream-interval`). For small models that is a third of what the API server costs. Here the first token and
the end of a request are told at once, what is between them `BUNCH` tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.outputs import LogprobsLists

BUNCH = 64


class Bunches:
    """What was not told yet, by request."""

    def __init__(self) -> None:
        self._held: dict[str, list[EngineCoreOutput]] = {}

    def due(self, output: EngineCoreOutput, hold: bool) -> EngineCoreOutput | None:
        """What is to be told now that a request has this output, if anything. `hold`: whether it may be told later."""
        held = self._held.get(output.request_id)
        if output.finish_reason is not None:
            self._held.pop(output.request_id, None)
        elif held is None:
            if hold:
                self._held[output.request_id] = []  # from its second token on
            return output
        elif len(held) < BUNCH - 1 and output.events is None and output.new_sampling_mask is None:
            held.append(output)
            return None
        else:
            self._held[output.request_id] = []
        return joined(held, output) if held else output

    def forget(self, requests: Iterable[str]) -> None:
        """Those requests are over and nobody wants to know more."""
        for request in requests:
            self._held.pop(request, None)


def joined(held: list[EngineCoreOutput], last: EngineCoreOutput) -> EngineCoreOutput:
    """One output with the tokens and log-probs of all, and whatever else the last one says."""
    outputs = [*held, last]
    last.new_token_ids = [token for output in outputs for token in output.new_token_ids]
    logprobs = [output.new_logprobs for output in outputs if output.new_logprobs is not None]
    if logprobs:
        last.new_logprobs = LogprobsLists(
            np.concatenate([each.logprob_token_ids for each in logprobs]),
            np.concatenate([each.logprobs for each in logprobs]),
            np.concatenate([each.sampled_token_ranks for each in logprobs]),
        )
    return last


class BunchingScheduler(Scheduler):
    """See above. Requests with stop strings, which the API server looks for, are told of token by token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bunches = Bunches()

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Account for a step; what the API servers are told of it, by client."""
        found = super().update_from_output(*args, **kwargs)
        for outputs in found.values():
            told = [self._bunches.due(output, self._may_wait(output.request_id)) for output in outputs.outputs]
            outputs.outputs = [output for output in told if output is not None]
        nothing = ("outputs", "scheduler_stats", "utility_output", "finished_requests", "wave_complete", "start_wave")
        return {client: outputs for client, outputs in found.items() if any(getattr(outputs, n) for n in nothing)}

    def _may_wait(self, request_id: str) -> bool:
        request = self.requests.get(request_id)
        asked = None if request is None else request.sampling_params
        return asked is not None and not asked.stop and asked.prompt_logprobs is None

    def finish_requests(self, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Requests that end from outside, such as those whose client has gone."""
        if request_ids is None:
            self._bunches = Bunches()
        else:
            self._bunches.forget([request_ids] if isinstance(request_ids, str) else request_ids)
        return super().finish_requests(request_ids, *args, **kwargs)
