"""Packing loses nothing, shares nothing and is the same every time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from qednano.errors import DataError
from qednano.training.packing import Document, Layout, bundle, collate, deal, pack


def lengths(seed: int, count: int = 200, longest: int = 100) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(1, longest) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_each_document_is_in_one_row_and_no_row_overflows(seed):
    sizes = lengths(seed)
    rows = pack(sizes, 128)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in row) <= 128 for row in rows)


def test_best_fit_beats_order_of_arrival():
    # First come, first served needs three rows of 10 here; the fullest row that still fits needs two.
    assert len(pack([3, 6, 4, 7], 10)) == 2
    sizes = lengths(1, 2000)
    assert len(pack(sizes, 128)) <= 1.02 * sum(sizes) / 128 + 1


def test_a_search_for_room_costs_no_more_in_a_longer_row():
    """It once went through every number of tokens that may be left: 1.5 s for as many in rows of 49,152."""
    sizes = lengths(2, 3000)
    assert sorted(index for row in pack(sizes, 1 << 40) for index in row) == list(range(3000))


def test_a_document_longer_than_a_row_is_named():
    with pytest.raises(DataError, match="document 1 has 11 tokens.*sequenceLength"):
        pack([5, 11], 10)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_all_documents_in_equally_many_micro_batches(ranks):
    sizes = lengths(7)
    dealt = deal(sizes, sequence_length=128, micro_batch_tokens=512, ranks=ranks)
    assert len({len(micros) for micros in dealt}) == 1
    assert sorted(i for micros in dealt for micro in micros for i in micro) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in micro) <= 512 for micros in dealt for micro in micros)
    loads = [sum(sizes[i] for micro in micros for i in micro) for micros in dealt]
    assert max(loads) - min(loads) <= 128


def proof_lengths(seed: int, count: int) -> list[int]:
    """Lengths as reasoning models' proofs have them: log-normal about 12,000 tokens, cut at 49,152."""
    rng = random.Random(seed)
    return [min(49_152, max(200, int(rng.lognormvariate(9.4, 0.8)))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_what_goes_through_the_model_holds_no_padding_and_rows_are_full(seed):
    sizes = proof_lengths(seed, 400)
    dealt = deal(sizes, sequence_length=49_152, micro_batch_tokens=49_152)
    micros = [micro for micro in dealt[0] if micro]
    batches = [collate([Document([1] * sizes[i], [1.0] * sizes[i]) for i in micro]) for micro in micros[:3]]
    assert [batch.tokens for batch in batches] == [sum(sizes[i] for i in micro) for micro in micros[:3]]
    assert sum(sizes) / (49_152 * len(micros)) >= 0.98


@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_are_balanced_by_cost_not_by_tokens(ranks):
    """Attention is quadratic: as many tokens in one long document cost more than in many short ones."""

    def cost(length: int) -> float:
        return length * (1 + length / 20_000)  # about a 4B model's

    sizes = proof_lengths(5, 300)
    dealt = deal(sizes, sequence_length=49_152, micro_batch_tokens=65_536, ranks=ranks, cost=cost)
    spent = [[sum(cost(sizes[i]) for i in micro) for micro in share] for share in dealt]
    totals = [sum(share) for share in spent]
    assert max(totals) / (sum(totals) / ranks) <= 1.02
    # Ranks wait for one another in each micro-batch when parameters are gathered (ZeRO-3): those must be alike too.
    waited = sum(max(at_once) for at_once in zip(*spent, strict=True))
    assert waited / (sum(totals) / ranks) <= 1.1


def test_a_rank_without_documents_gets_empty_micro_batches():
    assert deal([5], sequence_length=8, micro_batch_tokens=8, ranks=2) == [[[0]], [[]]]


def test_positions_restart_and_targets_stay_inside_documents():
    first = Document([10, 11, 12], [0.0, 0.5, 0.25], {"x": [0, 1, 2]}, index=4)
    second = Document([20, 21, 22, 23], [1.0, 0.0, 0.5, 0.5], {"x": [5, 6, 7, 8]}, index=9)
    batch = collate([first, second], ["x"])
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert batch.layout.lengths == (3, 4)
    # The last token of the first document predicts nothing, though another document follows it; a document's first
    # token is predicted by nobody, even with a weight.
    assert batch.predictors.tolist() == [0, 1, 4, 5]
    assert batch.targets.tolist() == [11, 12, 22, 23]
    assert batch.weights.tolist() == [0.5, 0.25, 0.5, 0.5]
    assert batch.sample.tolist() == [4, 4, 9, 9]
    assert batch.fields["x"].tolist() == [1, 2, 7, 8]


def sample(prompt: list[int], answer: list[int], index: int) -> Document:
    places = [float(place) for place in range(len(prompt) + len(answer))]
    return Document(
        [*prompt, *answer], [0.0] * len(prompt) + [0.5] * len(answer), {"x": places}, index, prompt=len(prompt)
    )


def test_a_shared_prompt_is_there_once_and_predicts_the_first_token_of_each_of_its_samples():
    docs = [sample([1, 2], [3, 4], 0), sample([1, 9], [3], 1), sample([1, 2], [5], 2)]
    batch = collate(docs, ["x"], share=True)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 1, 9, 3, 5]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 2]]
    assert batch.layout == Layout((2, 2, 3, 1), (-1, 0, -1, 0))
    assert batch.predictors.tolist() == [1, 2, 5, 1]
    assert batch.targets.tolist() == [3, 4, 3, 5]
    assert batch.sample.tolist() == [0, 0, 1, 2]
    assert batch.fields["x"].tolist() == [2, 3, 2, 2]
    assert [each.tolist() for each in batch.documents()] == [[1, 2, 3, 4], [1, 9, 3], [1, 2, 5]]
    assert batch.layout.seen() == [0, 2, 0, 2]


def test_samples_that_are_alike_are_there_once_and_each_predicts_its_tokens_with_its_own_numbers():
    docs = [sample([1, 2], [3, 4], 0), sample([1, 2], [5], 1), sample([1, 2], [3, 4], 2), sample([9], [3, 4], 3)]
    docs[2] = replace(docs[2], weights=[0.0, 0.0, 0.1, 0.2], fields={"x": [0, 0, 7, 8]})
    batch = collate(docs, ["x"], share=True)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 9, 3, 4]]
    assert batch.layout == Layout((2, 2, 1, 3), (-1, 0, 0, -1))
    assert batch.sample.tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert batch.predictors.tolist() == [1, 2, 1, 1, 2, 5, 6]
    assert batch.targets.tolist() == [3, 4, 5, 3, 4, 3, 4]
    assert batch.weights.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.1, 0.2, 0.5, 0.5])
    assert batch.fields["x"].tolist() == [2, 3, 2, 7, 8, 1, 2]
    assert [each.tolist() for each in batch.documents()] == [[1, 2, 3, 4], [1, 2, 5], [9, 3, 4]]
    only = collate([docs[0], docs[2]], share=True)
    assert only.input_ids.tolist() == [[1, 2, 3, 4]] and only.sample.tolist() == [0, 0, 2, 2]
    assert collate(docs, share=False).tokens == sum(len(document.tokens) for document in docs)


def test_samples_of_a_prompt_go_together_in_bundles_that_leave_room_to_balance():
    docs = [sample([7] * 10, [1] * 5, index) for index in range(6)]
    assert bundle(docs, 30) == [[0, 1, 2, 3], [4, 5]]
    assert bundle(docs, 0) == [[index] for index in range(6)]
    assert bundle([*docs[:2], Document([7] * 15, [1.0] * 15)], 100) == [[0, 1], [2]]
    bundles = bundle(docs, 30)
    prompts = [10] * 6
    dealt = deal([15] * 6, sequence_length=15, micro_batch_tokens=30, bundles=bundles, prompts=prompts)
    assert dealt == [[[0, 1, 2, 3], [4, 5]]]
    assert deal([15] * 6, sequence_length=15, micro_batch_tokens=50, bundles=bundles, prompts=prompts) == [
        [list(range(6))]
    ]


def test_a_prompt_that_weighs_or_is_all_there_is_cannot_be_shared():
    with pytest.raises(DataError, match="document 0 has a prompt of 2 of its 2 tokens"):
        sample([1, 2], [], 0)
    with pytest.raises(DataError, match="its tokens must weigh 0"):
        Document([1, 2, 3], [0.0, 1.0, 1.0], prompt=2)


def test_an_empty_micro_batch_has_one_token_and_no_target():
    batch = collate([], ["x"])
    assert batch.tokens == 1 and len(batch.targets) == 0 and batch.fields["x"].shape == torch.Size([0])


def test_a_document_with_too_few_weights_is_named():
    with pytest.raises(DataError, match="document 3"):
        Document([1, 2], [1.0], index=3)
