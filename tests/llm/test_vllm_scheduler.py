"""What vLLM's engine tells its API server, in bunches."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.vllm


def output(request: str, *tokens: int, finish=None, **more):
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.outputs import LogprobsLists

    ids = np.array(tokens)[:, None]
    logprobs = LogprobsLists(ids, -ids / 8, np.zeros(len(tokens)), None)
    return EngineCoreOutput(request, list(tokens), new_logprobs=logprobs, finish_reason=finish, **more)


@pytest.fixture
def bunches():
    from qednano.llm.vllm_scheduler import Bunches

    return Bunches()


def tell(bunches, outputs, hold=True):
    return [each for each in (bunches.due(item, hold) for item in outputs) if each is not None]


def test_the_first_token_and_the_end_are_told_at_once_and_nothing_is_lost(bunches):
    from vllm.v1.engine import FinishReason

    outputs = [output("a", n) for n in range(1, 6)] + [output("a", 6, finish=FinishReason.STOP)]
    first, last = tell(bunches, outputs)
    assert first.new_token_ids == [1] and last.new_token_ids == [2, 3, 4, 5, 6]
    assert last.finish_reason is FinishReason.STOP
    assert last.new_logprobs.logprob_token_ids[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert last.new_logprobs.logprobs[:, 0].tolist() == [-n / 8 for n in range(2, 7)]
    assert len(last.new_logprobs.sampled_token_ranks) == 5


def test_a_long_answer_is_told_of_every_64_tokens(bunches):
    from qednano.llm.vllm_scheduler import BUNCH

    told = tell(bunches, [output("a", n) for n in range(1 + 2 * BUNCH + 5)])
    assert [len(each.new_token_ids) for each in told] == [1, BUNCH, BUNCH]
    assert [token for each in told for token in each.new_token_ids] == list(range(1 + 2 * BUNCH))


def test_requests_are_kept_apart_and_may_begin_anew(bunches):
    from vllm.v1.engine import FinishReason

    assert len(tell(bunches, [output("a", 1), output("b", 2), output("a", 3), output("b", 4)])) == 2
    (end,) = tell(bunches, [output("a", 5, finish=FinishReason.LENGTH)])
    assert end.new_token_ids == [3, 5]
    bunches.forget(["b", "never seen"])
    (again,) = tell(bunches, [output("b", 9)])
    assert again.new_token_ids == [9]


def test_what_may_not_wait_does_not(bunches):
    assert len(tell(bunches, [output("a", 1), output("a", 2)], hold=False)) == 2
    first, second = tell(bunches, [output("b", 1), output("b", 2), output("b", 3, events=[])])
    assert second.new_token_ids == [2, 3] and second.events == []
