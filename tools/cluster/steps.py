"""Says what is being done and how long it took; runs commands so that a failure reads as one sentence."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.cluster.errors import ClusterError

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Prints one line with the seconds since this command began."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announces a step, and says how long it took when it is done."""
    say(f"{text} ...")
    began = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - began:.1f} s")


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Runs a command to its end and returns its standard output (empty when it goes to `log`).

    Raises ClusterError naming `what` failed and the last line the command said.
    """
    command = [str(part) for part in argv]
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as sink:
                status = subprocess.run(
                    command, cwd=cwd, env=env, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                ).returncode
            output, said = "", log.read_text(errors="replace")
        else:
            done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, input=stdin)
            status, output, said = done.returncode, done.stdout, done.stderr or done.stdout
    except FileNotFoundError as error:
        raise ClusterError(f"{what} needs the command {command[0]!r}, which is not installed") from error
    if status != 0:
        lines = [line for line in said.splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "it said nothing"
        where = f" (all of it: {log})" if log is not None else ""
        raise ClusterError(f"{what} failed with exit status {status}: {last}{where}")
    return output


def wait_until(
    ready: Callable[[], bool], *, what: str, seconds: float, alive: Callable[[], None] | None = None
) -> None:
    """Polls `ready` five times a second; `alive` may raise early. Raises ClusterError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if alive is not None:
            alive()
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not become ready within {seconds:.0f} s")
        time.sleep(0.2)
