"""The logs of a local run, as they are and as they grow."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from qednano.errors import UsageError

_NAME = re.compile(r"^(?P<role>.+)-(?P<index>\d+)\.a(?P<attempt>\d+)\.log$")
_POLL_SECONDS = 0.3


def newest_logs(folder: Path, role: str = "") -> dict[str, Path]:
    """Process (role-index) to the log of its newest attempt; UsageError when there is none."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("*.log")):
        match = _NAME.match(path.name)
        if match and role in ("", match["role"], f"{match['role']}-{match['index']}"):
            process, attempt = f"{match['role']}-{match['index']}", int(match["attempt"])
            if attempt > newest.get(process, (0, path))[0]:
                newest[process] = (attempt, path)
    if not newest:
        what = f"role {role}" if role else "process"
        raise UsageError(f"{folder} has no log of any {what}; its files are: {_listing(folder)}")
    return {process: path for process, (_, path) in newest.items()}


def _listing(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("*.log"))) or "none"


def print_logs(paths: dict[str, Path], lines: int, follow: bool, out: TextIO) -> None:
    """Print the last ``lines`` of each log, and with ``follow`` what comes after, until interrupted."""
    handles = {process: path.open(errors="replace") for process, path in paths.items()}
    try:
        for process, handle in handles.items():
            _print(process, handle.readlines()[-lines:] if lines else handle.readlines(), len(paths) > 1, out)
        while follow:
            for process, handle in handles.items():
                _print(process, handle.readlines(), len(paths) > 1, out)
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        for handle in handles.values():
            handle.close()


def _print(process: str, lines: Sequence[str], named: bool, out: TextIO) -> None:
    for line in lines:
        print(f"{process} | {line}" if named else line, end="" if line.endswith("\n") else "\n", file=out)
    out.flush()
