"""What SFT sees of a dataset: loss on the proof and its end, prompts as at inference, an order that can be resumed."""

from __future__ import annotations

import pyarrow.parquet
import pytest

from qednano.data.schema import ProblemRow, to_table
from qednano.errors import ConfigError, DataError
from qednano.training.examples import DataOrder, Pair, Source, documents, hold_out, read_pairs, tokenise
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
    assert list(example.tokens[: example.prompt_length]) == asked
    answer = list(example.tokens[example.prompt_length :])
    assert answer[-1] == tokenizer.eos_token_id and answer.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(answer[:-1]) == solution


def test_a_token_takes_four_bytes_and_the_tokenizer_is_never_given_a_whole_dataset(tokenizer, monkeypatch):
    given, call = [], type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, texts, **how: given.append(len(texts)) or call(self, texts, **how)
    )
    found = tokenise([Pair(f"Prove {n}.", f"So {n}.") for n in range(1000)], tokenizer, 64)
    assert len(found.items) == 1000 and max(given) <= 256 and sum(given) == 2000
    assert all(memoryview(item.tokens).nbytes == 4 * len(item.tokens) for item in found.items)
    assert [tokenizer.decode(list(item.tokens[item.prompt_length : -1])) for item in found.items[254:258]] == [
        f"So {n}." for n in range(254, 258)
    ]


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


THINKING = """{%- for m in messages %}{{- '<|user|>' + m['content'] if m['role'] == 'user' else '<|assistant|><think>\n'
+ m.get('reasoning_content', '') + '\n</think>\n\n' + m['content'] + '<|end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|><think>\n' }}{%- endif %}"""


@pytest.mark.parametrize("template", ["thinks", "plain"])
def test_reasoning_is_learned_with_the_proof(tokenizer, template):
    import copy

    other = copy.deepcopy(tokenizer)
    if template == "thinks":  # like Qwen3-Thinking's: a place for reasoning, and a prompt that already opens it
        other.chat_template = THINKING
    (example,) = tokenise([Pair("Prove 1 | 2.", "So 1 | 2.", "2 = 2 1")], other, 256).items
    answer = other.decode(list(example.tokens[example.prompt_length : -1]))
    opening = "" if template == "thinks" else "<think>\n"
    assert answer == f"{opening}2 = 2 1\n</think>\n\nSo 1 | 2."
    assert example.tokens[-1] == other.eos_token_id


def test_a_template_that_drops_reasoning_is_refused(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{{ '<|user|>' + m['content'] if m['role'] == 'user' else '<|assistant|>' + "
        "m['content'].split('</think>')[-1].strip() + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(ConfigError, match="leaves out the reasoning"):
        tokenise([Pair("a", "b", "thought")], other, 256)


def test_lengths_are_told_before_cutting(tokenizer):
    numbers = tokenise([Pair("a" * 10, "b" * 50), Pair("a" * 40, "b"), Pair("a", "b")], tokenizer, 30).statistics()
    assert numbers["truncatedProofs"] == 1 and numbers["leftOutProofs"] == 1 and numbers["proofs"] == 2
    assert numbers["lengthMax"] > 60 and numbers["tokensPerEpoch"] < 60


def test_problems_held_out_are_trained_on_by_none_of_their_solutions():
    pairs = [Pair(f"p{number % 7}", f"s{number}") for number in range(21)]
    kept, held = hold_out(pairs, 2, seed=3)
    assert len(held) == 6 and not {p.problem for p in kept} & {p.problem for p in held}
    assert (kept, held) == hold_out(pairs, 2, seed=3)
    with pytest.raises(ConfigError, match="holdOut is 7, and the dataset has 7 problems"):
        hold_out(pairs, 7, seed=3)


def test_a_mixture_shows_each_source_by_its_weight_and_nothing_twice_before_all_once():
    sources = [Source(10), Source(8, 0.5), Source(3, 2.0)]
    order = DataOrder([1] * 21, batch_tokens=5, seed=1, sources=sources, epochs=2)
    assert order.per_epoch == 10 + 4 + 6
    seen, position = [], 0
    while batch := order.batch(position):
        assert DataOrder([1] * 21, 5, 1, sources, 2).batch(position) == batch
        seen += batch
        position += len(batch)
    assert len(seen) == 40 and order.steps() == 8
    first, second = seen[:20], seen[20:]
    for epoch in (first, second):
        assert sorted(i for i in epoch if i < 10) == list(range(10))
        assert sorted(i for i in epoch if i >= 18) == [18, 18, 19, 19, 20, 20]
    halves = [[i for i in epoch if 10 <= i < 18] for epoch in (first, second)]
    assert sorted(halves[0] + halves[1]) == list(range(10, 18))
