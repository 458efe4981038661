"""Reads images out of buildah's storage as one stream, leaving out the layers the reader has.

buildah's own exports compress every layer at every push; here a code change costs its own small layer and no more.
A layer is kept unpacked beside a «tar-split» file, which holds everything of its tar but the contents of files.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Any

from tools.cluster.errors import ClusterError

_CHUNK = 1 << 20
_FILE, _SEGMENT = 1, 2  # kinds of tar-split's entries


@dataclass(frozen=True)
class StoredImage:
    """One image of a containers-storage folder with the overlay driver."""

    storage: Path
    name: str

    @cached_property
    def _identity(self) -> str:
        for image in json.loads((self.storage / "overlay-images/images.json").read_text()):
            if self.name in (image.get("names") or []):
                return str(image["id"])
        raise ClusterError(f"there is no image {self.name} in {self.storage}")

    @cached_property
    def manifest(self) -> bytes:
        """The OCI manifest, whose layers are uncompressed tars."""
        return (self.storage / "overlay-images" / self._identity / "manifest").read_bytes()

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()

    @property
    def layers(self) -> dict[str, int]:
        """Sizes in bytes by digest, in order."""
        return {layer["digest"]: layer["size"] for layer in json.loads(self.manifest)["layers"]}

    @property
    def _config(self) -> tuple[str, bytes]:
        digest = json.loads(self.manifest)["config"]["digest"]
        encoded = base64.b64encode(digest.encode()).decode()
        return digest, (self.storage / "overlay-images" / self._identity / f"={encoded}").read_bytes()

    def write(self, sink: IO[bytes], without: Collection[str]) -> None:
        """Writes an OCI archive that lacks the layers in `without`; the reader checks the digests."""
        entry = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.digest,
            "size": len(self.manifest),
            "annotations": {"io.containerd.image.name": self.name},
        }
        digest, config = self._config
        with tarfile.open(fileobj=sink, mode="w|", bufsize=_CHUNK) as archive:
            archive.copybufsize = _CHUNK  # type: ignore[attr-defined]
            _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
            _add(archive, _blob(self.digest), self.manifest)
            _add(archive, _blob(digest), config)
            for layer, size in self.layers.items():
                if layer not in without:
                    info = tarfile.TarInfo(_blob(layer))
                    info.size = size
                    archive.addfile(info, _Stream(self._layer(layer)))

    def _layer(self, digest: str) -> Iterator[bytes]:
        """The layer's tar, in pieces."""
        known: list[dict[str, Any]] = json.loads((self.storage / "overlay-layers/layers.json").read_text())
        identity = next((layer["id"] for layer in known if layer.get("diff-digest") == digest), None)
        if identity is None:
            raise ClusterError(f"the layer {digest} of {self.name} is not in {self.storage}")
        with gzip.open(self.storage / f"overlay-layers/{identity}.tar-split.gz", "rb") as entries:
            for line in entries:
                yield from _pieces(json.loads(line), self.storage / "overlay" / identity / "diff")


def _pieces(entry: dict[str, Any], diff: Path) -> Iterator[bytes]:
    if entry["type"] == _SEGMENT:
        yield base64.b64decode(entry.get("payload") or "")
    elif entry["type"] == _FILE and entry.get("size"):
        name = (
            base64.b64decode(entry["name_raw"]).decode(errors="surrogateescape")
            if "name_raw" in entry
            else entry["name"]
        )
        with (diff / name.lstrip("/")).open("rb") as content:
            while piece := content.read(_CHUNK):
                yield piece


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(content)
    archive.addfile(info, BytesIO(content))


class _Stream(RawIOBase):
    """An iterator of bytes as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        taken = []
        while size > 0:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    break
            piece, self._rest = self._rest[:size], self._rest[size:]
            taken.append(piece)
            size -= len(piece)
        return b"".join(taken)
