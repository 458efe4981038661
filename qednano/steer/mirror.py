"""What runs of a cluster made, kept on this machine in the layout of its volume, so that the same commands read it.

The copy of an artifact is used again as long as the cluster names the same digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from qednano.api import Phase
from qednano.api.common import Storage
from qednano.errors import ArtifactError, UsageError
from qednano.local.folders import RunFolder
from qednano.steer.cluster import ClusterRuns, listed
from qednano.steer.interface import Listed, find
from qednano.steer.reader import reading

READABLE = ("EvalRun", "ProofDataset")  # the others' artifacts are weights


def mirror_root(server: str) -> Path:
    """The folder of a cluster's copies: in the user's cache, since all of it can be had again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "qednano" / "clusters" / hashlib.sha256(server.encode()).hexdigest()[:12]


class Mirror:
    """Copies of what the runs of a place have made."""

    def __init__(self, place: ClusterRuns, tell: Callable[[str], None], root: Path | None = None) -> None:
        self._server, self.about, self._tell = place.server, place.about, tell
        self.root = root or mirror_root(place.server.connection.server)
        found = [(listed(kind, item), item) for kind, item in place.objects()]
        self._runs = [run for run, _ in found]
        self._objects = {run.label: item for run, item in found}

    def runs(self) -> list[Listed]:
        """Every run as the cluster had it when this was made, oldest first."""
        return self._runs

    def folder(self, name: str) -> RunFolder:
        """The folder of the run that is meant, with its artifact. Raises QedError."""
        run, _ = find(self, name)
        if run.kind not in READABLE:
            raise UsageError(f"{run.label} made weights, nothing to read here: name an EvalRun or a ProofDataset")
        if run.phase != Phase.SUCCEEDED:
            raise UsageError(f"{run.label} is {run.phase}; only a run that has succeeded has an artifact")
        (found,) = self.fetch([run])
        return found

    def newest(self, kind: str) -> RunFolder:
        """The folder of the newest run of the kind that has succeeded. Raises QedError."""
        done = [run for run in self.runs() if run.kind == kind and run.phase == Phase.SUCCEEDED]
        if not done:
            raise UsageError(f"no {kind} has succeeded {self.about}")
        return self.folder(f"{kind}/{done[-1].name}")

    def fetch(self, runs: Iterable[Listed]) -> list[RunFolder]:
        """Folders with the artifacts of those of the runs that have succeeded and made something to read."""
        finished = [run for run in runs if run.kind in READABLE and run.phase == Phase.SUCCEEDED]
        missing = [run for run in finished if not _is_there(run, self._folder(run))]
        for (_, claim), group in groupby(sorted(missing, key=self._volume), key=self._volume):
            together = list(group)
            with reading(self._server, together[0], claim, self._tell) as reader:
                for run in together:
                    reader.fetch(run, _uri(run), self._folder(run).artifact, self._tell)
        return [self._folder(run) for run in finished]

    def _folder(self, run: Listed) -> RunFolder:
        uid = self._objects[run.label]["metadata"]["uid"]
        return RunFolder(self.root / run.namespace / run.kind.lower() / f"{run.name}-{uid[:8]}")

    def _volume(self, run: Listed) -> tuple[str, str]:
        storage = self._objects[run.label]["spec"].get("storage") or {}
        return run.namespace, str(storage.get("claimName") or Storage().claim_name)


def _uri(run: Listed) -> str:
    artifact = run.status.artifact if run.status else None
    if artifact is None:
        raise ArtifactError(f"{run.label} has succeeded, but its status names no artifact")
    return artifact.uri


def _is_there(run: Listed, folder: RunFolder) -> bool:
    manifest = folder.manifest()
    artifact = run.status.artifact if run.status else None
    return manifest is not None and artifact is not None and manifest.digest == artifact.digest
