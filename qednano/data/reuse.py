"""Takes what an equal ProofDataset of the namespace has made, instead of making it again.

Equal are sources, stages, splits and seed, the content of every input, and the versions of the code. Where a model
or a grader is asked, what it was asked is equal, so its answers are taken as they are.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from qednano import __version__, artifacts
from qednano.data.shards import Build
from qednano.data.sources import Pins
from qednano.errors import ArtifactError

log = logging.getLogger(__name__)

_MADE_FROM = ("sources", "stages", "splits", "seed", "keepTogether")
_CODE = (__version__, pa.__version__)
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def fingerprint(spec: Mapping[str, Any], inputs: Pins, code: Sequence[str | None] = _CODE) -> str:
    """What the rows of a dataset are made from, as sha256 in hex.

    ``spec``: as it stands in YAML, with defaults. ``code``: versions of this package and of pyarrow.
    """
    made_from = {
        "spec": {key: spec.get(key) for key in _MADE_FROM},
        "inputs": inputs,
        "code": list(code),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def take(spec: Mapping[str, Any], name: str, inputs: Pins, build: Build) -> artifacts.Manifest | None:
    """Publish the files of a finished dataset that was made from the same as this one's own; None where there is none.

    Files are linked, or copied where the volume has no links, so the other may be deleted. Each is read and compared
    with the manifest that closed it.
    """
    wanted = fingerprint(spec, inputs)
    for folder, made in _finished(build):
        if fingerprint(made.spec, made.inputs, (made.code_version, made.packages.get("pyarrow"))) != wanted:
            continue
        try:
            manifest = _taken(folder, made, spec, name, inputs, build)
        except (ArtifactError, OSError) as error:
            log.warning("%s was made from the same and can't be taken: %s", folder, error)
            continue
        log.info("taken from %s, which was made from the same", folder)
        return manifest
    return None


def _finished(build: Build) -> Iterator[tuple[Path, artifacts.Manifest]]:
    """Artifacts of other ProofDatasets of the namespace, with their manifests."""
    if build.others is None:
        return
    for path in sorted(build.others.glob(f"*/artifact/{artifacts.MANIFEST}")):
        if path.parent == build.artifact:
            continue
        try:
            made = artifacts.read_manifest(path.parent)
        except (ArtifactError, OSError):
            continue  # deleted meanwhile, or none of ours
        if made.kind == "ProofDataset":
            yield path.parent, made


def _taken(
    source: Path, made: artifacts.Manifest, spec: Mapping[str, Any], name: str, inputs: Pins, build: Build
) -> artifacts.Manifest:
    with artifacts.staging(build.artifact) as folder:
        for file in made.files:
            target = folder / file
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ArtifactError(f"{source} lists {file}, which is outside of it")
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source / file, target)
            build.check_stop()
        manifest = artifacts.write_manifest(
            folder,
            kind=made.kind,
            name=name,
            spec=dict(spec),
            inputs=dict(inputs),
            seeds=made.seeds,
            metrics=made.metrics,
            reused=f"{made.name} ({source.parent.name})",
        )
        if manifest.digest != made.digest:
            raise ArtifactError(
                f"{source} differs from what its {artifacts.MANIFEST} says: it was changed or is damaged"
            )
        build.check_fence()
        artifacts.publish(folder, build.artifact)
    return manifest


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
