"""What a run is known by and what it reads: its uid, its resolved inputs and its configuration file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qednano.api import Run
from qednano.api.common import RunSpec
from qednano.artifacts import file_sha256, read_manifest, write_atomic
from qednano.errors import ConfigError
from qednano.job import ResolvedInput, RoleSize, RunConfig
from qednano.local.folders import CONFIG, RunFolder
from qednano.local.graph import Key
from qednano.plan import Role, literal_inputs, locate, references


def immutable_spec(spec: RunSpec) -> dict[str, Any]:
    """The spec as JSON without the fields that may change while a run is under way."""
    dumped = spec.model_dump(by_alias=True, mode="json", exclude_none=True)
    for dotted in type(spec).mutable:
        *parents, last = dotted.split(".")
        part = dumped
        for parent in parents:
            part = part.get(parent, {})
        part.pop(last, None)
    return dumped


def stable_uid(run: Run, inputs: dict[str, ResolvedInput]) -> str:
    """The same for the same run, spec and inputs, so that a second `qednano run` finds the first one's folder."""
    identity = {
        "kind": run.kind,
        "namespace": run.metadata.namespace,
        "name": run.metadata.name,
        "spec": immutable_spec(run.spec),
        "inputs": {field: item.digest or item.uri for field, item in inputs.items()},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def run_folder(root: Path, run: Run, uid: str) -> RunFolder:
    """The folder of the run with this uid under ``root``."""
    return RunFolder(root / run.metadata.namespace / run.kind.lower() / f"{run.metadata.name}-{uid[:8]}")


def resolve_inputs(run: Run, base: Path, artifacts: dict[Key, RunFolder]) -> dict[str, ResolvedInput]:
    """Field to where its files are and their digest.

    ``base`` is the folder that relative uris start from, ``artifacts`` the finished runs. Raises ConfigError.
    """
    inputs = {}
    for reference in references(run.spec):
        folder = artifacts[(run.metadata.namespace, reference.kind, reference.name)]
        manifest = read_manifest(folder.artifact)
        place = Path(locate(reference, str(folder.artifact)))
        if not place.exists():
            raise ConfigError(
                f"spec.{reference.field} of {run.kind}/{run.metadata.name} refers to {reference.part} of "
                f"{reference.kind}/{reference.name}, but {place} does not exist; that run did not make it"
            )
        inputs[reference.field] = ResolvedInput(
            name=f"{reference.kind}/{reference.name}", uri=str(place), digest=manifest.digest
        )
    for field, uri in literal_inputs(run.spec).items():
        inputs[field] = _literal(run, field, uri, base)
    return inputs


def _literal(run: Run, field: str, uri: str, base: Path) -> ResolvedInput:
    if "://" in uri and not uri.startswith("file://"):
        return ResolvedInput(uri=uri)
    path = (base / uri.removeprefix("file://")).resolve()
    if path.is_file():
        return ResolvedInput(uri=str(path), digest=f"sha256:{file_sha256(path)}")
    if not path.is_dir():
        raise ConfigError(f"spec.{field}.uri of {run.kind}/{run.metadata.name} is {uri}, but {path} does not exist")
    listing = [
        (item.relative_to(path).as_posix(), item.stat().st_size, item.stat().st_mtime_ns)
        for item in sorted(path.rglob("*"))
        if item.is_file()
    ]  # not the content: a model of many GB would be read in full before its run starts
    return ResolvedInput(uri=str(path), digest=f"sha256:{hashlib.sha256(repr(listing).encode()).hexdigest()}")


def write_config(
    folder: RunFolder, run: Run, uid: str, inputs: dict[str, ResolvedInput], roles: tuple[Role, ...]
) -> None:
    """Write the one configuration file that all processes of the run read."""
    config = RunConfig(
        api_version=run.api_version,
        kind=run.kind,
        name=run.metadata.name,
        namespace=run.metadata.namespace,
        uid=uid,
        generation=run.metadata.generation,
        spec=run.spec.model_dump(by_alias=True, mode="json", exclude_none=True),
        inputs=inputs,
        roles={role.name: RoleSize(replicas=role.replicas) for role in roles},
    )
    write_atomic(folder.path / CONFIG, config.model_dump_json(by_alias=True, indent=1))
