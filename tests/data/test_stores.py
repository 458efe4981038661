"""Files on object stores: read by the S3 protocol from a small server, and by fsspec from a store in memory."""

from __future__ import annotations

import gzip
import io
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from qednano.api.proofdataset import ObjectStore
from qednano.data.files import Files
from qednano.errors import ConfigError, DataError
from tests.data.s3_server import ACCESS_KEY, serve


@pytest.fixture
def store():
    found, server = serve()
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def files(store, monkeypatch):
    monkeypatch.setenv("MINIO_ACCESS", ACCESS_KEY)
    monkeypatch.setenv("MINIO_SECRET", "s3cret")
    return Files(spec_of(store))


def spec_of(store, **more):
    keys = {"accessKey": {"name": "minio", "key": "access"}, "secretKey": {"name": "minio", "key": "secret"}}
    return ObjectStore.model_validate({"endpoint": store.url, **keys, **more})


def lines(numbers):
    return "".join(json.dumps({"problem": f"Prove that {number} = {number}."}) + "\n" for number in numbers).encode()


def problems(files, *uris):
    return [record.values["problem"] for record in files.records(list(uris))]


def test_every_format_is_read_from_s3_in_order(store, files):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"problem": ["Prove that 7 = 7."]}), buffer)
    store.objects |= {
        "raw/a.jsonl": lines([1]),
        "raw/b.jsonl.gz": gzip.compress(lines([2, 3])),
        "raw/c.jsonl.zst": zstandard.compress(lines([4])) + zstandard.compress(lines([5])),
        "raw/d.csv": b"problem\nProve that 6 = 6.\n",
        "raw/e.parquet": buffer.getvalue(),
    }
    names = [name.removeprefix("raw/") for name in sorted(store.objects)]
    assert problems(files, *(f"s3://raw/{name}" for name in names)) == [f"Prove that {n} = {n}." for n in range(1, 8)]


def test_a_pattern_stands_for_what_it_matches_in_the_order_of_names(store, files):
    store.objects |= {f"raw/posts/part-{number}.jsonl": lines([number]) for number in (3, 1, 2, 5, 4)}
    store.objects["raw/posts/readme.txt"] = b"no rows"
    assert problems(files, "s3://raw/posts/part-*.jsonl") == [f"Prove that {n} = {n}." for n in range(1, 6)]
    with pytest.raises(DataError, match=r"s3://raw/posts/x-\*.jsonl matches no file"):
        problems(files, "s3://raw/posts/x-*.jsonl")


def test_a_large_object_is_read_in_pieces_and_past_a_store_that_asks_to_slow_down(store, files):
    store.objects["raw/large.jsonl"] = lines(range(300_000))
    store.failures = 1
    rows = files.records(["s3://raw/large.jsonl"])
    assert next(rows).values["problem"] == "Prove that 0 = 0."
    assert sum(store.ranges) < len(store.objects["raw/large.jsonl"]) / 2  # the rest is not here yet
    assert sum(1 for _ in rows) == 299_999


def test_a_changed_object_has_another_pin(store, files):
    store.objects["raw/a.jsonl"] = lines([1])
    before = files.pin("s3://raw/a.jsonl")
    store.objects["raw/a.jsonl"] = lines([2])
    assert files.pin("s3://raw/a.jsonl") != before


def test_what_the_store_refuses_is_said_with_the_file_and_the_remedy(store, files, monkeypatch):
    with pytest.raises(DataError, match="s3://raw/absent.jsonl doesn't exist: check files.uris"):
        problems(files, "s3://raw/absent.jsonl")
    store.objects["raw/a.jsonl"] = lines([1])
    monkeypatch.setenv("MINIO_ACCESS", "AKIAOTHER")
    with pytest.raises(ConfigError, match="s3://raw/a.jsonl may not be read.*check files.store"):
        problems(Files(spec_of(store)), "s3://raw/a.jsonl")
    monkeypatch.delenv("MINIO_ACCESS")
    with pytest.raises(ConfigError, match="names the Secret minio with key access, which is not there.*MINIO_ACCESS"):
        problems(Files(spec_of(store)), "s3://raw/a.jsonl")


def test_any_store_of_fsspec_will_do():
    with fsspec.open("memory://raw/a.jsonl.gz", "wb", compression="gzip") as file:
        file.write(lines([1, 2]))
    assert problems(Files(), "memory://raw/*.jsonl.gz") == ["Prove that 1 = 1.", "Prove that 2 = 2."]
    assert Files().pin("memory://raw/a.jsonl.gz") == Files().pin("memory://raw/a.jsonl.gz")
    with pytest.raises(ConfigError, match="nosuch:// can't be read here"):
        problems(Files(), "nosuch://raw/a.jsonl")
