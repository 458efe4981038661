"""Records of files, by path or fsspec uri, as a stream: JSONL, CSV and Parquet, packed or not.

A file is never in memory as a whole, also not one on an object store. S3 is reached through Arrow's own client, other
stores through the fsspec package of their protocol.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.compression import compr
from fsspec.core import strip_protocol
from fsspec.utils import infer_compression

from qednano.api.proofdataset import ObjectStore
from qednano.api.secret import SecretKey
from qednano.data.columns import Record
from qednano.errors import ConfigError, DataError, Unavailable

csv.field_size_limit(1 << 27)  # a solution may be far longer than the default of 128 KiB

_PACKED = (".gz", ".bz2", ".xz", ".zst")
_HELD_ROWS = 256  # of a Parquet file at once: a row may have megabytes of proofs
_S3_SECONDS = 60
_PIECE = 1 << 22  # bytes that are read at once


class Files:
    """Files of one source: finds, pins and reads them. `field` is where the spec names them, for messages."""

    def __init__(self, store: ObjectStore | None = None, field: str = "files.uris") -> None:
        self._store, self._field = store or ObjectStore(), field
        self._opened: dict[str, Any] = {}

    def found(self, uris: list[str]) -> list[str]:
        """The files, in order: a uri with * or ? stands for what it matches, sorted. DataError if nothing."""
        files: list[str] = []
        for uri in uris:
            if "*" not in uri and "?" not in uri:
                files.append(uri)
                continue
            system = self._system(uri)
            with _named(uri):
                matched = sorted(map(str, system.glob(_path(uri))))
            if not matched:
                raise DataError(f"{uri} matches no file: check {self._field}")
            start = f"{uri.split('://')[0]}://" if "://" in uri else ""
            files += [f"{start}{name}" if start and "://" not in name else name for name in matched]
        return files

    def pin(self, uri: str) -> dict[str, str]:
        """What tells one content of a file from another: the ETag that its store keeps, or else its sha256."""
        system = self._system(uri)
        with _named(uri):
            try:
                found = system.info(_path(uri))
            except FileNotFoundError:
                raise self._absent(uri) from None
        if etag := found.get("ETag"):
            return {"etag": str(etag).strip('"'), "size": str(found["size"])}
        digest = hashlib.sha256()
        with self._bytes(uri) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return {"sha256": digest.hexdigest()}

    def records(self, uris: list[str]) -> Iterator[Record]:
        """Every record of the files, in order. Raises DataError that names the file, and the line or row."""
        for uri in self.found(uris):
            with _named(uri):
                yield from self._reader(uri)(uri)

    def _absent(self, uri: str) -> DataError:
        return DataError(f"{uri} doesn't exist: check {self._field}, and that the file is on the run's volume")

    def _reader(self, uri: str) -> Any:
        suffixes = [suffix for suffix in PurePosixPath(uri).suffixes if suffix not in _PACKED]
        readers = {".jsonl": self._jsonl, ".parquet": self._parquet, ".csv": self._csv}
        try:
            return readers[suffixes[-1] if suffixes else ""]
        except KeyError:
            raise DataError(f"{uri} is not a .jsonl, .parquet or .csv file ({self._field})") from None

    def _system(self, uri: str) -> Any:
        protocol = uri.split("://")[0] if "://" in uri else "file"
        if protocol not in self._opened:
            try:
                self._opened[protocol] = s3(self._store) if protocol == "s3" else fsspec.filesystem(protocol)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{self._field}: {protocol}:// can't be read here ({error})") from None
        return self._opened[protocol]

    @contextmanager
    def _bytes(self, uri: str) -> Iterator[Any]:
        try:
            with self._system(uri).open(_path(uri), "rb") as file:
                yield file
        except FileNotFoundError:
            raise self._absent(uri) from None

    @contextmanager
    def _text(self, uri: str, encoding: str, newline: str | None = None) -> Iterator[Any]:
        try:
            with self._bytes(uri) as raw:
                file = _unpacked(uri, io.BufferedReader(_Pieces(raw)))
                with io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
                    yield text
        except UnicodeDecodeError as error:
            raise DataError(f"{uri} is not UTF-8 ({error.reason} at byte {error.start} of a block)") from None

    def _jsonl(self, uri: str) -> Iterator[Record]:
        name = PurePosixPath(uri).name
        with self._text(uri, "utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{name} line {number}"
                try:
                    values = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where} is not JSON ({error})") from None
                if not isinstance(values, dict):
                    raise DataError(f"{where} is not a JSON object: each line must be one, with the columns as keys")
                yield Record(where, values)

    def _csv(self, uri: str) -> Iterator[Record]:
        name = PurePosixPath(uri).name
        with self._text(uri, "utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                for values in reader:
                    where = f"{name} line {reader.line_num}"
                    if None in values:
                        raise DataError(f"{where} has more fields than the header has columns")
                    yield Record(where, values)
            except csv.Error as error:
                raise DataError(f"{name} line {reader.line_num} is not CSV ({error})") from None

    def _parquet(self, uri: str) -> Iterator[Record]:
        name = PurePosixPath(uri).name
        with self._bytes(uri) as file:
            try:
                table = pq.ParquetFile(file)
            except pa.ArrowInvalid as error:
                raise DataError(f"{uri} can't be read as Parquet: {error}") from None
            number = 0
            for batch in table.iter_batches(batch_size=_HELD_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(f"{name} row {number}", values)


class _Pieces(io.RawIOBase):
    """A store's file in large pieces, however little is asked for: each read of a store may be a request."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._held:
            self._held = memoryview(self._file.read(_PIECE))
        taken = min(len(buffer), len(self._held))
        buffer[:taken] = self._held[:taken]
        self._held = self._held[taken:]
        return taken


def _unpacked(uri: str, file: io.BufferedReader) -> Any:
    name = infer_compression(uri)
    return compr[name](file, mode="rb") if name else file


def _path(uri: str) -> str:
    if uri.startswith("s3://"):
        return uri.removeprefix("s3://")
    return str(strip_protocol(uri)) if "://" in uri else uri


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """A store's own errors, as one sentence; only those of files on this machine may be of another kind."""
    try:
        yield
    except PermissionError as error:
        raise ConfigError(f"{uri} may not be read ({error}): check the credentials, or the file's owner") from None
    except (OSError, ConnectionError) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or "://" not in uri:
            raise DataError(f"{uri} can't be read: {error}") from None
        if "ACCESS_DENIED" in str(error) or "INVALID_ACCESS_KEY" in str(error) or "403" in str(error):
            raise ConfigError(f"{uri} may not be read ({error}): check files.store") from None
        raise Unavailable(f"{uri} can't be read now: {error}") from error


def secret(key: SecretKey | None, what: str) -> str | None:
    """The value of a Secret's key, from the environment of a pod or of a laptop. ConfigError if it isn't there."""
    if key is None:
        return None
    value = os.environ.get(key.pod_variable) or os.environ.get(key.variable)
    if not value:
        raise ConfigError(
            f"{what} names the Secret {key.name} with key {key.key}, which is not there: make it, or on a laptop set "
            f"{key.variable}"
        )
    return value


def s3(store: ObjectStore) -> Any:
    """An fsspec file system over Arrow's S3 client."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import S3FileSystem

    scheme, _, address = store.endpoint.rpartition("://")
    options: dict[str, Any] = {"connect_timeout": _S3_SECONDS, "request_timeout": _S3_SECONDS}
    if store.endpoint:
        options |= {"endpoint_override": address, "scheme": scheme or "https"}
    if store.region or store.endpoint:
        options["region"] = store.region or "us-east-1"
    if store.anonymous:
        options["anonymous"] = True
    elif store.access_key is not None:
        options["access_key"] = secret(store.access_key, "files.store.accessKey")
        options["secret_key"] = secret(store.secret_key, "files.store.secretKey")
    return ArrowFSWrapper(S3FileSystem(**options))
