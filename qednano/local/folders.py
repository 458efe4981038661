"""Where local runs live: run folders with stable names, the root's lock, and each run's status file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qednano.api import KINDS, Phase, Run, RunStatus
from qednano.api.common import RunSpec
from qednano.artifacts import MANIFEST, Manifest, file_sha256, read_manifest, write_atomic
from qednano.errors import ArtifactError, ConfigError, Unavailable, UsageError
from qednano.job import ResolvedInput, RoleSize, RunConfig
from qednano.local.graph import Key
from qednano.plan import Role, literal_inputs, locate, references

STATUS = "status.json"
CONFIG = "config.json"
_LOCK_PATIENCE = 20.0  # seconds for the processes of a killed runner to be gone


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what is in it."""

    path: Path

    @property
    def artifact(self) -> Path:
        """The final artifact's folder."""
        return self.path / "artifact"

    @property
    def logs(self) -> Path:
        """Logs and last words of every process and attempt."""
        return self.path / "logs"

    def manifest(self) -> Manifest | None:
        """The artifact's manifest, None when the run has not finished."""
        try:
            return read_manifest(self.artifact)
        except ArtifactError:
            return None

    def status(self) -> RunStatus | None:
        """The run's status as the runner wrote it last, None when there is none."""
        try:
            return RunStatus.model_validate_json((self.path / STATUS).read_bytes())
        except (OSError, ValidationError):
            return None

    def config(self) -> RunConfig | None:
        """The run's configuration, None when there is none."""
        try:
            return RunConfig.model_validate_json((self.path / CONFIG).read_bytes())
        except (OSError, ValidationError):
            return None

    def write_status(self, status: RunStatus) -> None:
        """Keep the status for `qednano status`."""
        write_atomic(self.path / STATUS, status.model_dump_json(by_alias=True, exclude_none=True, indent=1))


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


def folders(root: Path) -> list[tuple[Key, RunFolder]]:
    """Every run folder under ``root`` with its run's key, oldest first."""
    kinds = {kind.lower(): kind for kind in KINDS}
    found = [
        ((path.parts[-4], kinds[path.parts[-3]], path.parts[-2].rpartition("-")[0]), RunFolder(path.parent))
        for path in root.glob(f"*/*/*/{CONFIG}")
        if path.parts[-3] in kinds
    ]
    return sorted(found, key=lambda item: (item[1].path / CONFIG).stat().st_mtime)


def finished(root: Path) -> dict[Key, RunFolder]:
    """The newest finished folder of each run under ``root``."""
    return {key: folder for key, folder in folders(root) if (folder.artifact / MANIFEST).is_file()}


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


class RootLock:
    """One `qednano run` at a time under a root.

    The processes' tethers inherit the handle, so the lock is held until the last process of a killed runner is gone.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(
                f"--root is {root}, which can't be used ({error.strerror}); name a folder that you can write to"
            ) from None
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                pid = os.pread(self.handle, 32, 0).decode(errors="replace").strip()
                if (pid.isdigit() and _alive(int(pid))) or time.monotonic() > deadline:
                    os.close(self.handle)
                    raise Unavailable(
                        f"{root} is in use by another qednano run, process {pid or 'unknown'}; "
                        "wait for it, stop it, or give another --root"
                    ) from None
            time.sleep(0.2)
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others run."""
        os.ftruncate(self.handle, 0)
        os.close(self.handle)


def runner_of(root: Path) -> int:
    """The process that runs what is under the root; 0 when there is none."""
    try:
        text = (root / ".lock").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if text.isdigit() and in_use(root) and _alive(int(text)) else 0


def in_use(root: Path) -> bool:
    """Whether a runner, or what is left of one, holds the root's lock."""
    try:
        handle = os.open(root / ".lock", os.O_RDONLY)  # a reader may have no right to write
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def interrupted(status: RunStatus | None) -> bool:
    """Whether a status says that the run was under way and has not come to its end."""
    return status is not None and status.phase not in (None, Phase.PENDING, Phase.SUCCEEDED, Phase.FAILED)


def as_seen(status: RunStatus, root_in_use: bool) -> RunStatus:
    """The status, corrected when its runner died before it could say that the run has stopped."""
    if root_in_use or status.phase is Phase.SUSPENDED or not interrupted(status):
        return status
    message = "its runner is gone; `qednano run` resumes it"
    return status.model_copy(update={"phase": Phase.SUSPENDED, "message": message})
