"""Which runs there are to look at: local runs under roots, and artifacts that were named."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qednano.artifacts import MANIFEST, read_manifest
from qednano.errors import ArtifactError, DataError, UsageError
from qednano.evals.reader import EvaluationReader, read_scores
from qednano.local.folders import RunFolder, as_seen, folders, in_use

_FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Run:
    """A row of the table of runs; `scores` is scores.json of a finished EvalRun."""

    id: str
    kind: str
    name: str
    namespace: str
    phase: str
    started: str
    message: str
    place: Path
    artifact: Path | None
    headline: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """Whether there are samples to look at."""
        return self.artifact is not None and (self.artifact / "results.parquet").is_file()

    @property
    def folder(self) -> Path:
        """The run's folder; of an artifact that was copied alone the artifact itself."""
        return self.place.parent if self.place.name == "artifact" else self.place

    @property
    def models(self) -> list[str]:
        """Names of the models that were evaluated, the run's own first."""
        return [model["name"] for model in self.scores.get("models", [])]

    @property
    def score(self) -> Mapping[str, float] | None:
        """Estimate of the first model's mean score: mean, low, high as shares."""
        models = self.scores.get("models") or [{}]
        return models[0].get("score")

    def spent(self, what: str) -> float | None:
        """Tokens or cost of all models together; None where one is unknown."""
        found = [(model.get("spent") or {}).get(what) for model in self.scores.get("models", [])]
        return sum(found) if found and None not in found else None


class Catalog:
    """Finds runs again when a page asks for them; readers of artifacts are kept until their manifest changes."""

    def __init__(self, places: Sequence[Path]) -> None:
        self.roots: list[Path] = []
        self.artifacts: list[Path] = []
        for place in places:
            if (place / MANIFEST).is_file():
                self.artifacts.append(place.resolve())
            elif (place / "artifact" / MANIFEST).is_file():
                self.artifacts.append((place / "artifact").resolve())
            elif place.is_dir():
                self.roots.append(place.resolve())
            else:
                raise UsageError(f"{place} doesn't exist: name a folder of runs, a run's folder or an artifact")
        self._lock = threading.Lock()
        self._found: tuple[float, list[Run]] = (-_FRESH_SECONDS, [])
        self._readers: dict[Path, tuple[int, EvaluationReader]] = {}
        self._scores: dict[Path, tuple[int, Mapping[str, Any]]] = {}

    def runs(self) -> list[Run]:
        """All runs, newest first."""
        with self._lock:
            when, runs = self._found
            if time.monotonic() - when > _FRESH_SECONDS:
                runs = self._look()
                self._found = time.monotonic(), runs
            return runs

    def run(self, identity: str) -> Run | None:
        """The run with this id, None when there is none."""
        return next((run for run in self.runs() if run.id == identity), None)

    def reader(self, run: Run) -> EvaluationReader:
        """The reader of a finished EvalRun's artifact."""
        assert run.artifact is not None
        changed = (run.artifact / MANIFEST).stat().st_mtime_ns
        with self._lock:
            known = self._readers.get(run.artifact)
            if known is None or known[0] != changed:
                known = changed, EvaluationReader(run.artifact)
                self._readers[run.artifact] = known
            return known[1]

    def _look(self) -> list[Run]:
        found = [self._of_artifact(path) for path in self.artifacts if (path / MANIFEST).is_file()]
        for root in self.roots:
            running = in_use(root)
            found += [
                self._of_folder(namespace, kind, name, folder, running)
                for (namespace, kind, name), folder in folders(root)
            ]
        unique: dict[str, Run] = {}
        for run in sorted(found, key=lambda run: run.started, reverse=True):
            unique.setdefault(run.id, run)
        return list(unique.values())

    def _of_folder(self, namespace: str, kind: str, name: str, folder: RunFolder, running: bool) -> Run:
        status = folder.status()
        status = as_seen(status, running) if status else None
        finished = (folder.artifact / MANIFEST).is_file()
        return Run(
            id=folder.path.name,
            kind=kind,
            name=name,
            namespace=namespace,
            phase=status.phase.value if status and status.phase else "Succeeded" if finished else "",
            started=str(status.start_time or "") if status else "",
            message=(status.message or "") if status else "",
            place=folder.path,
            artifact=folder.artifact if finished else None,
            headline=(status.progress.headline or "") if status and status.progress else "",
            scores=self._scores_of(folder.artifact) if finished else {},
        )

    def _of_artifact(self, path: Path) -> Run:
        try:
            manifest = read_manifest(path)
        except ArtifactError as error:
            return Run(path.name, "?", path.name, "", "Failed", "", str(error), path, None)
        parent = path.parent.name if path.name == "artifact" else f"{manifest.name}-{manifest.digest[7:15]}"
        return Run(
            id=parent,
            kind=manifest.kind,
            name=manifest.name,
            namespace="",
            phase="Succeeded",
            started=manifest.created,
            message="",
            place=path,
            artifact=path,
            scores=self._scores_of(path),
        )

    def _scores_of(self, artifact: Path) -> Mapping[str, Any]:
        path = artifact / "scores.json"
        try:
            changed = path.stat().st_mtime_ns
            known = self._scores.get(path)
            if known is None or known[0] != changed:
                known = changed, read_scores(artifact)
                self._scores[path] = known
        except (OSError, DataError):
            return {}
        return known[1]


def matching(runs: Sequence[Run], words: str, kind: str, phase: str) -> list[Run]:
    """The runs of a kind and phase (empty: any) whose name, models or message have all of the words."""
    wanted = words.lower().split()
    return [
        run
        for run in runs
        if kind in ("", run.kind)
        and phase in ("", run.phase)
        and all(word in f"{run.id} {run.kind} {' '.join(run.models)} {run.message}".lower() for word in wanted)
    ]


_ORDERS = {
    "name": lambda run: run.name,
    "kind": lambda run: run.kind,
    "phase": lambda run: run.phase,
    "started": lambda run: run.started,
    "score": lambda run: run.score["mean"] if run.score else None,
    "problems": lambda run: run.scores.get("problems"),
    "tokens": lambda run: run.spent("tokens"),
    "cost": lambda run: run.spent("cost"),
}


def ordered(runs: Sequence[Run], by: str) -> list[Run]:
    """Sorted by a column, downwards with a leading "-"; runs without a value come last either way."""
    value = _ORDERS.get(by.lstrip("-"), _ORDERS["started"])
    with_value = [run for run in runs if value(run) is not None]
    without = [run for run in runs if value(run) is None]
    return sorted(with_value, key=value, reverse=by.startswith("-")) + without
