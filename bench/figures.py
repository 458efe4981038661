"""What every bench of the data stages ends with: its figures beside their bars, as one line of JSON."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Sequence


def machine() -> str:
    """Processor, cores and load, for a reader who compares figures."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, load {load:.1f}"


def peak_gib() -> float:
    """The most memory this process ever held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Stopwatch:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(wall seconds, processor seconds)."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def ratios(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ours over theirs by rounds in which both took turns, so that other work on the machine falls on both alike: the
    median under `name`, the least and the most beside it."""
    found = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {name: statistics.median(found), f"{name}_least": min(found), f"{name}_most": max(found)}


def report(name: str, figures: dict[str, float], bars: dict[str, tuple[str, float]]) -> int:
    """Print the last line; 0 when every figure keeps its bar, ("<=" or ">=", value), else 1."""
    kept = {
        key: figures[key] <= bound if sign == "<=" else figures[key] >= bound for key, (sign, bound) in bars.items()
    }
    told = {key: f"{sign} {bound:g}" for key, (sign, bound) in bars.items()}
    rounded = {key: round(value, 6) for key, value in figures.items()}
    passed = all(kept.values())
    print(json.dumps({"name": name, "machine": machine(), "figures": rounded, "bars": told, "pass": passed}))
    return 0 if passed else 1
