"""Runs one command and takes its whole process tree along when the command or the runner ends.

A script of its own that imports nothing of the project, so that it costs a few milliseconds:
``python -I -S tether.py GRACE FD... -- COMMAND...``. The first FD is the reading end of a pipe whose
writing end only the runner holds: end of file there means that the runner is gone, however it died. The
other FDs are merely kept open (the runner's lock) until the tree is gone.

It behaves like the PID 1 of a container: SIGTERM and SIGINT are passed to the command alone as SIGTERM;
once the command has ended, whatever it left behind is killed. SIGUSR1 kills the tree at once. Exits with
the command's code, or 128 + the signal's number.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _spawn(command: list[str]) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(137)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} can't be started: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)


def _descendants() -> list[int]:
    """Every living process below this one; [] where there is no /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                    if fields[0] != "Z":
                        children.setdefault(int(fields[1]), []).append(int(entry))
    found, front = [], [os.getpid()]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        found += front
    return found


def _reap(watched: int) -> int | None:
    """Collect every ended child; the exit code of ``watched`` when it was among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == watched:
                code = os.waitstatus_to_exitcode(status)
                code = 128 - code if code < 0 else code
    return code


def _kill_tree(watched: int) -> int | None:
    """Kill everything below this process until nothing is left; the command's exit code if it was seen."""
    code = None
    while True:
        seen = _reap(watched)
        code = seen if seen is not None else code
        left = _descendants()
        if not left:
            return code
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _watch(child: int, leash: int, grace: float) -> int | None:
    """Pass signals on until the command has ended (its code) or has to be killed (None)."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    waiting, deadline = [leash, reading], None
    while True:
        code = _reap(child)
        if code is not None:
            return code
        timeout = 5.0 if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select(waiting, [], [], timeout)[0]
        if reading in ready:
            arrived = os.read(reading, 64)
            if signal.SIGUSR1 in arrived:
                return None
            if any(number in arrived for number in _PASSED_ON):
                os.kill(child, signal.SIGTERM)
        if leash in ready:
            waiting.remove(leash)
            os.kill(child, signal.SIGTERM)
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() >= deadline:
            return None


def main(arguments: list[str]) -> int:
    """Run ``arguments`` (see the module's docstring); returns the exit code."""
    split = arguments.index("--")
    grace, kept = float(arguments[0]), [int(item) for item in arguments[1:split]]
    for handle in kept:
        os.set_inheritable(handle, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = _spawn(arguments[split + 1 :])
    code = _watch(child, kept[0], grace)
    last = _kill_tree(child)
    return next((item for item in (code, last) if item is not None), 137)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
