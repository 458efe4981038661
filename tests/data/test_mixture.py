"""Several sources, their weights and folds, and splits that no wording of a problem crosses."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data.build import build_dataset
from qednano.data.schema import read_rows
from qednano.data.shards import Build
from qednano.data.split import Ledger, Wanted, shares
from qednano.errors import DataError
from qednano.progress import Reporter

INEQUALITY = "Let $a,b,c$ be positive reals with $a+b+c={}$. Prove that $a^4+b^4+c^4 \\ge 29$."
REWORDED = "Problem 2. Suppose x, y and z are positive reals with x + y + z = {}. Show that x^4 + y^4 + z^4 ≥ 29."


def file_source(tmp_path, name, rows, **more):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": name, "files": {"uris": [str(path)]}, **more}


def numbered(name, count):
    return [{"id": f"{name}{n}", "problem": INEQUALITY.format(f"{n}{ord(name[0])}")} for n in range(10, 10 + count)]


def build(tmp_path, **spec):
    manifest = build_dataset(
        ProofDatasetSpec.model_validate(spec), "mix", Build(tmp_path / "run", Reporter(), lambda: None, lambda: None)
    )
    return manifest, {
        split["name"]: list(read_rows(tmp_path / f"run/artifact/{split['name']}.parquet")) for split in spec["splits"]
    }


def test_each_source_gives_its_share_of_every_split(tmp_path):
    sources = [
        file_source(tmp_path, "aops", numbered("a", 80), weight=3),
        file_source(tmp_path, "shortlist", numbered("s", 60), weight=1),
    ]
    splits = [{"name": "train", "problems": 80}, {"name": "test", "problems": 10}]
    manifest, rows = build(tmp_path, sources=sources, splits=splits)
    counted = {
        split: [sum(row.source == name for row in rows[split]) for name in ("aops", "shortlist")] for split in rows
    }
    assert counted == {"train": [60, 20], "test": [8, 2]}  # 7.5 and 2.5: the tie goes to the first
    assert (manifest.metrics["rows/read/in"], len(manifest.inputs)) == (140, 2)
    meta = json.loads(rows["test"][0].meta)
    assert meta["from"] == rows["test"][0].source and meta["where"].startswith(f"{meta['from']}.jsonl line ")


def test_without_weights_rows_are_drawn_alike_and_columns_are_each_sources_own(tmp_path):
    sources = [
        file_source(tmp_path, "a", [{"question": INEQUALITY.format(1000)}], columns={"problem": "question"}),
        file_source(
            tmp_path, "b", [{"frage": INEQUALITY.format(2000), "n": 5}], columns={"problem": "frage", "meta": ["n"]}
        ),
    ]
    _, rows = build(tmp_path, sources=sources, splits=[{"name": "all"}])
    assert [row.source for row in rows["all"]] == ["a", "b"]
    assert json.loads(rows["all"][1].meta)["n"] == 5


def test_a_source_too_small_for_its_weight_is_named(tmp_path):
    sources = [
        file_source(tmp_path, "aops", numbered("a", 50), weight=1),
        file_source(tmp_path, "tiny", numbered("t", 5), weight=1),
    ]
    with pytest.raises(DataError, match="source tiny has 15 problems too few for its weight in split train"):
        build(tmp_path, sources=sources, splits=[{"name": "train", "problems": 40}])


def test_generators_and_files_mix_and_a_generators_rows_may_have_stages(tmp_path):
    sources = [
        {"name": "tiny", "generator": {"name": "tiny-divisibility", "problems": 60}},
        file_source(tmp_path, "mine", numbered("m", 20)),
    ]
    splits = [{"name": "exam", "problems": 30, "heldOut": True}, {"name": "test", "percent": 10}, {"name": "train"}]
    manifest, rows = build(tmp_path, sources=sources, stages=[{"filter": {"minCharacters": 10}}], splits=splits)
    assert {json.loads(row.meta).get("fold") for row in rows["exam"]} == {"heldout"}
    others = rows["test"] + rows["train"]
    assert {json.loads(row.meta).get("fold") for row in others} == {"train", None}
    assert len(rows["test"]) == manifest.metrics["rows/read/in"] // 10 == 14
    assert not {row.id for row in rows["exam"]} & {row.id for row in others}


def wordings():
    both = [
        {"problem": text.format(100 + n), "id": f"{text[0]}{n}"} for n in range(40) for text in (INEQUALITY, REWORDED)
    ]
    return sorted(both, key=lambda row: row["id"])


def sides(rows):
    """In which splits each problem is."""
    found: dict[str, set[str]] = {}
    for split, members in rows.items():
        for row in members:
            found.setdefault(row.id[1:], set()).add(split)
    return found


@pytest.mark.parametrize("together", ["NearDuplicates", "EqualTexts"])
def test_wordings_of_a_problem_are_in_one_split_unless_it_is_said_otherwise(tmp_path, together):
    _, rows = build(
        tmp_path,
        sources=[file_source(tmp_path, "posts", wordings())],
        splits=[{"name": "train", "problems": 41}, {"name": "test", "problems": 20}],
        keepTogether=together,
    )
    assert {split: len(members) for split, members in rows.items()} == {"train": 41, "test": 20}
    crossing = [problem for problem, splits in sides(rows).items() if len(splits) > 1]
    assert bool(crossing) == (together == "EqualTexts")


def test_the_order_of_the_sources_rows_does_not_change_who_is_drawn():
    texts = [f"text {number}" for number in range(50)]
    groups = [[n, n + 25] for n in range(10)]
    drawn = []
    for order in (list(range(50)), list(reversed(range(50)))):
        ledger = Ledger(3)
        for place in order:
            ledger.add(texts[place], str(place))
        moved = [[order.index(position) for position in group] for group in groups]
        splits = ledger.select([Wanted("a", 20), Wanted("b", None)], groups=moved)
        drawn.append([sorted(order[position] for position in split) for split in splits])
    assert drawn[0] == drawn[1]
    assert len(drawn[0][0]) == 20


@pytest.mark.parametrize(
    ("count", "weights", "expected"), [(10, [1, 1, 1], [4, 3, 3]), (7, [5, 0], [7, 0]), (0, [2, 1], [0, 0])]
)
def test_shares_add_up(count, weights, expected):
    assert shares(count, weights) == expected


GENERATOR = {"name": "g", "generator": {"name": "tiny-divisibility"}}
FILES = {"name": "f", "files": {"uris": ["a.jsonl"]}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sources": [FILES, FILES]}, "sources has the name f twice"),
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"name": "f"}]}, "exactly one of generator, files, hub must be set, but none is set"),
        (
            {"sources": [{**FILES, "weight": 1}, GENERATOR]},
            "weight must be set on all sources or on none, and g has none",
        ),
        ({"sources": [FILES], "splits": [{"name": "a", "problems": 1, "heldOut": True}]}, "heldOut needs a generator"),
        ({"splits": [{"name": "a"}, {"name": "b"}]}, "a and b have neither problems nor percent"),
        ({"splits": [{"name": "a", "problems": 1, "percent": 1}]}, "at most one of problems, percent"),
        (
            {"sources": [GENERATOR], "splits": [{"name": "a"}]},
            "split a gives no number of problems, so source g must say",
        ),
        ({"sources": [{**FILES, "weight": 2}], "splits": [{"name": "a"}]}, "weights mean nothing"),
        ({"stages": [{"filter": {}, "normalise": {}}]}, "exactly one of"),
        (
            {"stages": [{"decontaminate": {"benchmarks": [{"name": "my-bench"}]}}]},
            "name is my-bench, which is not one of",
        ),
        ({"sources": [{**FILES, "files": {"uris": []}}]}, "at least 1 item"),
    ],
)
def test_a_mixture_that_can_not_be_is_refused(change, said):
    spec = {"sources": [FILES], "splits": [{"name": "a", "problems": 1}]} | change
    with pytest.raises(ValidationError, match=said):
        ProofDatasetSpec.model_validate(spec)
