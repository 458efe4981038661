"""Several runs in the order of their references: each is reused, resumed or run, and everyone is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qednano.api import Phase, Run, RunStatus
from qednano.api.common import RunSpec
from qednano.api.load import Document
from qednano.api.status import ArtifactStatus, ResolvedInputStatus
from qednano.errors import QedError
from qednano.local.evaluations import documents_of
from qednano.local.folders import RootLock, RunFolder, finished, interrupted
from qednano.local.graph import Key, in_order, key_of, label, needs
from qednano.local.observe import progress_of, timestamp, usage_of
from qednano.local.prepare import resolve_inputs, run_folder, stable_uid, write_config
from qednano.local.process import Leash
from qednano.local.supervise import Supervisor
from qednano.local.targets import Targets
from qednano.plan import Role, roles

_TICK = 0.1
_STATUS_SECONDS = 2.0  # between two writes of an unchanged phase's status


@dataclass
class RunView:
    """One run as the displays show it. ``seconds`` is the time spent on it by this command."""

    document: Document
    status: RunStatus = field(default_factory=lambda: RunStatus(phase=Phase.PENDING))
    folder: RunFolder | None = None
    seconds: float = 0.0
    reused: bool = False
    resumed: bool = False

    @property
    def run(self) -> Run:
        """The run."""
        return self.document.run

    @property
    def key(self) -> Key:
        """Namespace, kind and name."""
        return key_of(self.run)

    @property
    def label(self) -> str:
        """Kind/name."""
        return label(self.key)

    @property
    def in_order(self) -> bool:
        """Whether it ended as its manifest asks: well, or not at all where spec.suspend says so."""
        return self.phase is Phase.SUCCEEDED or (self.run.spec.suspend and self.phase is Phase.SUSPENDED)

    @property
    def phase(self) -> Phase:
        """Where the run is."""
        return self.status.phase or Phase.PENDING


class Display(Protocol):
    """Whoever shows the runs."""

    def show(self, views: Sequence[RunView]) -> None:
        """Called several times a second."""

    def say(self, text: str) -> None:
        """Something that is not in the table."""


class Interrupt:
    """What Ctrl-C and SIGTERM ask for: the first to save and stop, the second to stop at once."""

    def __init__(self) -> None:
        self.count = 0
        self.signal = 0
        self._arrived = threading.Event()

    def arrived(self, number: int) -> None:
        """Note a signal."""
        self.count += 1
        self.signal = self.signal or number
        self._arrived.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up for a first signal."""
        if self.count:
            time.sleep(seconds)
        else:
            self._arrived.wait(seconds)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP while the block runs."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, lambda got, _: self.arrived(got)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Session:
    """Runs documents under one root."""

    def __init__(
        self,
        documents: Sequence[Document],
        root: Path,
        display: Display,
        roles_of: Callable[[RunSpec], tuple[Role, ...]] = roles,
        interrupt: Interrupt | None = None,
    ) -> None:
        self.root = root.resolve()
        self.artifacts = finished(self.root)
        self.views = [RunView(document) for document in in_order(documents, self.artifacts)]
        self._display, self._roles_of = display, roles_of
        self._targets = Targets(self.root)
        self.interrupt = interrupt or Interrupt()

    def run(self) -> list[RunView]:
        """Run everything; a failed run fails those that need it, and the others go on."""
        lock = RootLock(self.root)
        try:
            with self.interrupt.installed():
                for view in self.views:  # grows: a training run may ask for evaluations of its checkpoints
                    with _leash(lock) as leash:
                        self._run_one(view, leash)
                    self._display.show(self.views)
        finally:
            self._targets.clear()
            lock.release()
        return self.views

    def _run_one(self, view: RunView, leash: Leash) -> None:
        if self.interrupt.count:
            return
        blocked = self._blocked(view)
        if blocked:
            view.status = RunStatus(phase=Phase.FAILED, message=blocked)
            return
        if view.run.spec.cancel:
            view.status = RunStatus(phase=Phase.FAILED, message="cancelled (spec.cancel is true)")
            return
        if view.run.spec.suspend:
            view.status = RunStatus(phase=Phase.SUSPENDED, message="spec.suspend is true; set it to false to run it")
            return
        started = time.monotonic()
        try:
            self._reuse_or_run(view, leash)
        except (QedError, OSError) as error:
            view.status = RunStatus(phase=Phase.FAILED, message=str(error))
        view.seconds = 0.0 if view.reused else time.monotonic() - started

    def _blocked(self, view: RunView) -> str:
        """Why the run can't start: a run that it needs did not succeed; empty when it can."""
        by_key = {other.key: other for other in self.views}
        for field_name, key in needs(view.run).items():
            other = by_key.get(key)
            if other is not None and other.phase is not Phase.SUCCEEDED:
                what = "failed" if other.phase is Phase.FAILED else "is suspended"
                return f"not started: spec.{field_name} needs {other.label}, which {what}"
        return ""

    def _reuse_or_run(self, view: RunView, leash: Leash) -> None:
        run = view.run
        inputs = resolve_inputs(run, Path(view.document.file).resolve().parent, self.artifacts)
        uid = stable_uid(run, inputs)
        folder = view.folder = run_folder(self.root, run, uid)
        before = folder.status()
        if folder.manifest() is not None:
            view.reused = True
            view.status = before or RunStatus()
        else:
            view.resumed = interrupted(before)
            run_roles = self._roles_of(run.spec)
            write_config(folder, run, uid, inputs, run_roles)
            view.status = RunStatus(
                phase=Phase.STARTING,
                start_time=before.start_time if before and view.resumed else timestamp(),
                run_dir=str(folder.path),
                inputs=[
                    ResolvedInputStatus(field=name, name=item.name, uri=item.uri, digest=item.digest)
                    for name, item in inputs.items()
                ],
            )
            self._supervise(view, Supervisor(run, folder, run_roles, leash))
        manifest = folder.manifest()
        if manifest is not None and (view.reused or view.phase is Phase.SUCCEEDED):
            artifact = ArtifactStatus(
                uri=str(folder.artifact), digest=manifest.digest, manifest=str(folder.artifact / "manifest.json")
            )
            view.status = view.status.model_copy(update={"phase": Phase.SUCCEEDED, "artifact": artifact, "message": ""})
            self.artifacts[view.key] = folder
            self._evaluate(view, folder)
            folder.write_status(view.status)
            shutil.rmtree(folder.path / "scratch", ignore_errors=True)

    def _evaluate(self, view: RunView, folder: RunFolder) -> None:
        if getattr(view.run.spec, "evaluations", ()):
            known = [other.document for other in self.views]
            place = self.views.index(view) + 1
            self.views[place:place] = [RunView(item) for item in documents_of(view.document, folder, known)]

    def _supervise(self, view: RunView, supervisor: Supervisor) -> None:
        started, written, written_at = time.monotonic(), None, 0.0
        final: Phase | None = None
        heeded = 0
        while final is None:
            final = supervisor.tick()
            self._targets.show(view.run, (child for unit in supervisor.units for child in unit.children))
            view.seconds = time.monotonic() - started
            view.status = _observe(view.status, supervisor, final)
            if view.phase is not written or time.monotonic() - written_at > _STATUS_SECONDS:
                supervisor.folder.write_status(view.status)
                written, written_at = view.phase, time.monotonic()
            self._display.show(self.views)
            if final is None:
                self.interrupt.wait(_TICK)
            if self.interrupt.count > heeded:
                heeded += 1
                self._stop(supervisor, heeded)

    def _stop(self, supervisor: Supervisor, times: int) -> None:
        if times == 1:
            self._display.say("Saving and stopping; once more to stop at once.")
            supervisor.stop()
        else:
            supervisor.kill()


@contextlib.contextmanager
def _leash(lock: RootLock) -> Iterator[Leash]:
    """Processes on this leash end with the block, or with this process."""
    reading, writing = os.pipe()
    try:
        yield Leash(reading, (lock.handle,))
    finally:
        os.close(writing)
        os.close(reading)


def _observe(status: RunStatus, supervisor: Supervisor, final: Phase | None) -> RunStatus:
    children = [child for unit in supervisor.units for child in unit.children]
    ended = {"completion_time": timestamp()} if final in (Phase.SUCCEEDED, Phase.FAILED) else {}
    progress = progress_of(supervisor.run.kind, children, status.progress)
    return status.model_copy(
        update={
            "phase": final or supervisor.phase(),
            "message": supervisor.message[:1024],
            "attempt": supervisor.attempt,
            "counted_restarts": supervisor.counted_restarts,
            "attempts": supervisor.attempts,
            "roles": supervisor.roles(),
            "progress": progress or status.progress,
            "usage": usage_of(children, status.usage),
            **ended,
        }
    )
