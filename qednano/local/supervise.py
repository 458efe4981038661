"""Runs the roles of one run as processes: starts, restarts and ends them as the planner's tables say."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from qednano.api import Phase, Run
from qednano.api.common import OnStall
from qednano.api.status import Attempt, RoleStatus
from qednano.artifacts import newest_attempt
from qednano.errors import Unavailable
from qednano.local.folders import RunFolder
from qednano.local.ports import free_port
from qednano.local.process import Child, Leash, Place
from qednano.plan import Action, Lifecycle, Role, backoff_seconds, classify

SAVE_GRACE = 30.0  # seconds to save after SIGTERM
CLOSE_GRACE = 10.0  # seconds for what has nothing left to save
_RESUME_PAUSE = 1.0  # so that a process which stops at once again does not spin
_PORT_LOSSES = 3
_KEPT_ATTEMPTS = 10


@dataclass(frozen=True)
class Ending:
    """How a process ended, and why in its own words where it had any."""

    process: str
    code: int
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.process} ended with code {self.code} ({self.reason}): {self.message}"


@dataclass
class Unit:
    """Processes that are started and restarted together: a gang, or one replica of another role."""

    role: Role
    indices: tuple[int, ...]
    children: list[Child] = field(default_factory=list)
    started: float = 0.0
    restarts: int = 0
    port_losses: int = 0
    ending: Ending | None = None  # set while the rest of the unit is being ended
    kill_at: float = 0.0
    restart_at: float | None = None
    done: bool = False

    def living(self) -> list[Child]:
        """Processes that have not ended."""
        return [child for child in self.children if child.poll() is None]


def units_of(roles: tuple[Role, ...]) -> list[Unit]:
    """A unit for each gang and for each replica of the other roles, in starting order."""
    units = []
    for role in roles:
        if role.gang:
            units.append(Unit(role, tuple(range(role.replicas))))
        else:
            units += [Unit(role, (index,)) for index in range(role.replicas)]
    return units


def _ending(child: Child, code: int) -> Ending:
    process, words = f"{child.role.name}-{child.index}", child.words
    if words is not None and words.outcome != "Succeeded":
        return Ending(process, code, words.reason, f"{words.message} (log: {child.log})")
    if code == 0:
        return Ending(process, code, "Ended", f"it ended although its run was not done (log: {child.log})")
    return Ending(process, code, classify(code).reason, f"{_unsaid(child, code)} (log: {child.log})")


def _unsaid(child: Child, code: int) -> str:
    """What is known about an end without last words."""
    last = f"the last line of its log is: {child.last_line()}" if child.last_line() else "its log is empty"
    if code - 128 in {number.value for number in signal.Signals}:
        return f"killed by {signal.Signals(code - 128).name}; {last}"
    return last


class Supervisor:
    """One run under way. Call ``tick`` a few times a second until it returns the final phase."""

    def __init__(self, run: Run, folder: RunFolder, roles: tuple[Role, ...], leash: Leash) -> None:
        self.run, self.folder = run, folder
        self.units = units_of(roles)
        self.counted_restarts = 0
        self.message = ""
        self.attempts: list[Attempt] = []
        before = folder.status()
        if before is not None:
            self.attempts = list(before.attempts)
        self.attempt = max(newest_attempt(folder.path), before.attempt if before else 0)
        self._leash = leash
        self._began = self._moved = time.monotonic()
        self._signs: tuple[object, ...] = ()
        self._final: Phase | None = None  # decided, and the rest is being ended
        self._final_kill_at = 0.0
        for unit in self.units:
            self._start(unit, self.attempt + 1)
        self.attempt += 1

    def tick(self) -> Phase | None:
        """Look at every process once; the final phase when the run is over, else None."""
        now = time.monotonic()
        for unit in self.units:
            if self._final is None:
                self._watch(unit, now)
        if self._final is None and all(unit.done for unit in self.units if unit.role.essential):
            self._close(Phase.SUCCEEDED, "", CLOSE_GRACE)
        if self._final is None:
            self._keep_limits(now)
        if self._final is None:
            return None
        return self._closed(now)

    def stop(self) -> None:
        """Have every process save and end; the run can be resumed."""
        if self._final is None:
            self._close(Phase.SUSPENDED, "stopped after saving; the same command resumes it", SAVE_GRACE)

    def kill(self) -> None:
        """End every process at once."""
        self.stop()
        self._final_kill_at = 0.0

    def phase(self) -> Phase:
        """Where the run is now."""
        if self._final is Phase.SUCCEEDED:
            return Phase.COMPLETING
        if self._final is Phase.SUSPENDED:
            return Phase.SUSPENDING
        if any(unit.restart_at is not None or unit.ending for unit in self.units):
            return Phase.RESTARTING
        essential = [child for unit in self.units if unit.role.essential for child in unit.children]
        return Phase.RUNNING if any(child.report is not None for child in essential) else Phase.STARTING

    def roles(self) -> list[RoleStatus]:
        """Processes by role."""
        found: dict[str, RoleStatus] = {}
        for unit in self.units:
            name, ready = unit.role.name, sum(child.answered for child in unit.living())
            before = found.get(name, RoleStatus(name=name))
            found[name] = RoleStatus(
                name=name,
                desired=unit.role.replicas,
                ready=before.ready + ready,
                restarts=before.restarts + unit.restarts,
                attempt=max(before.attempt, unit.children[0].attempt),
            )
        return list(found.values())

    def _start(self, unit: Unit, attempt: int) -> None:
        rendezvous = free_port() if unit.role.distributed and unit.role.replicas > 1 else 0
        place = Place(self.folder.path, rendezvous)
        unit.children = [Child(unit.role, index, attempt, place, self._leash) for index in unit.indices]
        unit.started, unit.restart_at, unit.ending = time.monotonic(), None, None

    def _watch(self, unit: Unit, now: float) -> None:
        if unit.done:
            return
        if unit.restart_at is not None:
            if now >= unit.restart_at:
                self.attempt += 1
                self.message = ""
                self._start(unit, self.attempt)
            return
        if unit.ending is None:
            self._look_for_end(unit, now)
        if unit.ending is not None:
            living = unit.living()
            if not living:
                self._judge(unit, unit.ending, now)
            elif now >= unit.kill_at:
                for child in living:
                    child.kill()

    def _look_for_end(self, unit: Unit, now: float) -> None:
        server = unit.role.lifecycle is Lifecycle.SERVER
        codes = [(child, code) for child in unit.children if (code := child.poll()) is not None]
        bad = [(child, code) for child, code in codes if code != 0 or server]
        if bad:
            child, code = min(bad, key=lambda item: classify(item[1]).action is not Action.FAIL)
            unit.ending = _ending(child, code)
        elif len(codes) == len(unit.children):
            unit.done = True
        elif server and now - unit.started > unit.role.startup_seconds and not unit.children[0].answered:
            unit.ending = Ending(
                f"{unit.role.name}-{unit.indices[0]}",
                Unavailable.exit_code,
                "StartupTimeout",
                f"it did not answer within {unit.role.startup_seconds} s (log: {unit.children[0].log})",
            )
        if unit.ending is not None:
            unit.kill_at = now + SAVE_GRACE
            for child in unit.living():
                child.terminate()

    def _keep_limits(self, now: float) -> None:
        """End a run that has been active for too long; report or restart one that stands still (spec.limits)."""
        limits = self.run.spec.limits
        if limits.active_deadline_seconds and now - self._began > limits.active_deadline_seconds:
            seconds = limits.active_deadline_seconds
            self._close(
                Phase.FAILED,
                f"it has been active for {seconds} s (spec.limits.activeDeadlineSeconds); what it saved is kept: "
                "run it again with a longer limit",
                SAVE_GRACE,
            )
            return
        units = [unit for unit in self.units if unit.role.essential]
        reports = [child.report for unit in units for child in unit.children if child.report is not None]
        signs = (self.phase(), *((item.stage, item.step, item.message, *item.metrics.items()) for item in reports))
        if signs != self._signs or any(item.paused for item in reports) or self.phase() is not Phase.RUNNING:
            self._signs, self._moved = signs, now
        elif limits.stall_seconds and now - self._moved > limits.stall_seconds:
            why = f"nothing has changed for {limits.stall_seconds} s (spec.limits.stallSeconds)"
            self.message = f"{why}; look at the logs in {self.folder.path / 'logs'}"
            if limits.on_stall is OnStall.RESTART:
                for unit in units:
                    name = f"{unit.role.name}-{unit.indices[0]}"
                    unit.ending = Ending(name, Unavailable.exit_code, "Stalled", why)
                    unit.kill_at = now + SAVE_GRACE
                    for child in unit.living():
                        child.terminate()

    def _judge(self, unit: Unit, ending: Ending, now: float) -> None:
        if unit.port_losses < _PORT_LOSSES and any(child.lost_its_port() for child in unit.children):
            unit.port_losses += 1
            unit.restart_at = now
            self._record(unit, ending, counted=False)
            return
        verdict = classify(ending.code)
        counted = verdict.counted or ending.code == 0
        self._record(unit, ending, counted)
        if verdict.action in (Action.FAIL, Action.IGNORE):
            self._close(Phase.FAILED, str(ending), CLOSE_GRACE)
            return
        policy = self.run.spec.restart
        self.counted_restarts += counted
        if self.counted_restarts > policy.max_restarts:
            times = f", {policy.max_restarts} restarts did not help" if policy.max_restarts else ""
            self._close(Phase.FAILED, f"{ending}{times}", CLOSE_GRACE)
            return
        unit.restarts += 1
        unit.restart_at = now + (backoff_seconds(policy, self.counted_restarts) if counted else _RESUME_PAUSE)
        self.message = f"restarting {unit.role.name}: {ending}"

    def _record(self, unit: Unit, ending: Ending, counted: bool) -> None:
        attempt = Attempt(
            number=unit.children[0].attempt,
            reason=ending.reason,
            message=ending.message[:1024],
            role=unit.role.name,
            exit_code=ending.code,
            counted=counted,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.attempts = [*self.attempts, attempt][-_KEPT_ATTEMPTS:]

    def _close(self, final: Phase, message: str, grace: float) -> None:
        self._final, self.message = final, message
        self._final_kill_at = time.monotonic() + grace
        for unit in self.units:
            for child in unit.living():
                child.terminate()

    def _closed(self, now: float) -> Phase | None:
        living = [child for unit in self.units for child in unit.living()]
        if living:
            if now >= self._final_kill_at:
                for child in living:
                    child.kill()
            return None
        if self._final is Phase.SUSPENDED:
            return self._suspended()
        if self._final is Phase.SUCCEEDED and self.folder.manifest() is None:
            self.message = f"every process ended well but left no finished artifact in {self.folder.artifact}"
            return Phase.FAILED
        return self._final

    def _suspended(self) -> Phase:
        """The run may have got done while it was being stopped, or a process may have failed to save."""
        essential = [child for unit in self.units if unit.role.essential for child in unit.children]
        if all(child.poll() == 0 for child in essential) and self.folder.manifest() is not None:
            self.message = ""
            return Phase.SUCCEEDED
        for child in essential:
            code = child.poll()
            stopped = child.words is not None and child.words.outcome in ("Stopped", "Succeeded")
            if code not in (75, 143, None) and not stopped:
                self.message = f"stopped, but not saved: {_ending(child, code)}; the same command resumes it"
        return Phase.SUSPENDED
