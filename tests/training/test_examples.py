"""What SFT sees of a dataset: loss on the proof and its end, prompts as at inference, an order that can be resumed."""

from __future__ import annotations

import pyarrow.parquet
import pytest

from qednano.data.schema import ProblemRow, to_table
from qednano.errors import ConfigError, DataError
from qednano.training.examples import DataOrder, Pair, documents, read_pairs, tokenise
from qednano.training.model import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(model_folder):
    return load_tokenizer(model_folder)


def test_each_solution_is_an_example_and_ends_with_eos(split, tokenizer):
    pairs = read_pairs(split)
    found = tokenise(pairs, tokenizer, 256)
    assert len(found.items) == 400 and (found.truncated, found.left_out) == (0, 0)
    problem, solution = pairs[3].problem, pairs[3].solution
    example = found.items[3]
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}], add_generation_prompt=True, return_dict=False
    )
    assert example.tokens[: example.prompt_length] == asked
    answer = example.tokens[example.prompt_length :]
    assert answer[-1] == tokenizer.eos_token_id and answer.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(answer[:-1]) == solution


def test_what_a_template_writes_after_the_end_carries_no_loss(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|>"
        "{{ m['content'] }}<|end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    (example,) = tokenise([Pair("Prove 1 | 2.", "So 1 | 2.")], other, 256).items
    assert example.tokens[-1] == other.eos_token_id


def test_a_template_that_hides_where_the_answer_begins_is_refused(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}!{% endif %}"
    )
    with pytest.raises(ConfigError, match="chat template"):
        tokenise([Pair("a", "b")], other, 256)


def test_long_proofs_are_cut_and_long_prompts_left_out_and_both_counted(tokenizer):
    found = tokenise([Pair("a" * 10, "b" * 50), Pair("a" * 40, "b"), Pair("a", "b")], tokenizer, 30)
    assert (len(found.items), found.truncated, found.left_out) == (2, 1, 1)
    assert len(found.items[0].tokens) == 30
    with pytest.raises(DataError, match="sequenceLength"):
        tokenise([Pair("a" * 40, "b")], tokenizer, 30)


def test_a_row_without_solution_is_named(tmp_path):
    rows = [ProblemRow(id="one", problem="p", solutions=["s"]), ProblemRow(id="two", problem="p", solutions=["  "])]
    pyarrow.parquet.write_table(to_table(rows), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet, row 1 \(id two\) has no solution"):
        read_pairs(tmp_path / "x.parquet")


def test_the_weights_of_a_step_add_up_to_one_over_answers_only(split, tokenizer):
    items = tokenise(read_pairs(split), tokenizer, 256).items[:5]
    docs = documents(items)
    assert sum(sum(doc.weights) for doc in docs) == pytest.approx(1.0)
    assert all(not any(doc.weights[: item.prompt_length]) for doc, item in zip(docs, items, strict=True))


def test_an_epoch_shows_each_example_once_and_the_order_can_be_taken_up_anywhere():
    lengths = [3, 5, 7, 2, 9, 4, 6, 8]
    order = DataOrder(lengths, batch_tokens=12, seed=4)
    position, seen, batches = 0, [], []
    while len(seen) < 16:
        batch = order.batch(position)
        assert sum(lengths[i] for i in batch) <= 12
        batches.append((position, batch))
        seen += batch
        position += len(batch)
    assert sorted(seen[:8]) == sorted(seen[8:16]) == list(range(8))
    assert seen[:8] != seen[8:16]
    for position, batch in reversed(batches):
        assert DataOrder(lengths, batch_tokens=12, seed=4).batch(position) == batch
    assert DataOrder(lengths, 12, seed=5).batch(0) != batches[0][1]
