"""One request a sample: the problem as the user's turn, the answer as it comes."""

from __future__ import annotations

from dataclasses import replace

from qednano.data.schema import ProblemRow
from qednano.evals.scaffolds.answer import Answer
from qednano.llm.client import SamplingParams, written_proof
from qednano.rl.rollouts import Rollouts


class SinglePass:
    """Draws all samples of a problem in one request, so that the prompt is computed once."""

    def __init__(self, sampling: SamplingParams, max_model_length: int) -> None:
        self._sampling, self._max_model_length = sampling, max_model_length

    async def answers(self, rollouts: Rollouts, problem: ProblemRow, n: int) -> list[Answer]:
        """`n` answers; none when the prompt alone fills the model's length."""
        prompt = await rollouts.tokenise(problem.problem)
        space = self._max_model_length - len(prompt.ids)
        if space < 1:
            return []
        sampling = replace(self._sampling, max_tokens=min(space, self._sampling.max_tokens))
        batch = await rollouts.complete(prompt.ids, sampling, n)
        return [
            Answer(
                text=choice.text,
                proof=written_proof(choice.text, prompt.reasoning),
                finish_reason=choice.finish_reason,
                prompt_tokens=len(prompt.ids),
                completion_tokens=len(choice.token_ids),
                seconds=batch.seconds,
            )
            for choice in batch.choices
        ]
