"""Where local runs live: run folders with stable names, the root's lock, and each run's status file.

`qednano status` starts from here, so nothing is imported that only a run needs: see ``prepare.py`` for that.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qednano.api.status import HEADLINES, Phase, RunStatus
from qednano.artifacts import MANIFEST, Manifest, read_manifest, write_atomic
from qednano.errors import ArtifactError, Unavailable, UsageError

if TYPE_CHECKING:
    from qednano.local.graph import Key

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

    def write_status(self, status: RunStatus) -> None:
        """Keep the status for `qednano status`."""
        write_atomic(self.path / STATUS, status.model_dump_json(by_alias=True, exclude_none=True, indent=1))


def folders(root: Path) -> list[tuple[Key, RunFolder]]:
    """Every run folder under ``root`` with its run's key, oldest first."""
    kinds = {kind.lower(): kind for kind in HEADLINES}
    found = [
        ((path.parts[-4], kinds[path.parts[-3]], path.parts[-2].rpartition("-")[0]), RunFolder(path.parent))
        for path in root.glob(f"*/*/*/{CONFIG}")
        if path.parts[-3] in kinds
    ]
    return sorted(found, key=lambda item: (item[1].path / CONFIG).stat().st_mtime)


def finished(root: Path) -> dict[Key, RunFolder]:
    """The newest finished folder of each run under ``root``."""
    return {key: folder for key, folder in folders(root) if (folder.artifact / MANIFEST).is_file()}


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
