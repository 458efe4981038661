"""Final answers: finding the one that a text states, and comparing two by algebra in a process that can be killed.

An expression such as 9^{9^{9^9}} keeps a computer algebra system busy for ever, and no time-out inside of Python can be
trusted to stop it. So `qednano.grading.algebra` runs as a process of its own with limits of memory and time, and what
takes longer is killed; the next question gets a fresh one.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from qednano.errors import Unavailable

LONGEST = 2000  # characters of an answer that are read as mathematics
_START_SECONDS = 120.0
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SAID = re.compile(
    r"(?:final\s+answer|\banswer)\s*(?:is|:|=)?\s*[:*]*\s*(?:\$\$?|\\\(|\\\[)?\s*(?P<answer>[^\n]{1,400})",
    re.IGNORECASE,
)


class Equality(StrEnum):
    """What algebra finds about a given answer beside the known one."""

    EQUAL = "equal"
    DIFFERENT = "different"  # for certain: both are numbers, or finite sets of them
    UNSURE = "unsure"  # not found equal, but not shown to differ; or it took too long
    UNREADABLE = "unreadable"  # the given one can't be read as mathematics


def boxed_answer(text: str) -> str | None:
    r"""What the last \boxed{…} with balanced braces holds; None when there is none or it is empty."""
    for match in reversed(list(_BOX.finditer(text))):
        depth, start = 1, match.end()
        for place in range(start, len(text)):
            character = text[place]
            if character in "{}" and text[place - 1] != "\\":
                depth += 1 if character == "{" else -1
                if depth == 0:
                    return text[start:place].strip() or None
    return None


def stated_answer(text: str) -> str | None:
    r"""The final answer that a text states: the last box, else what the last "answer is …" or "answer: …" says."""
    if (boxed := boxed_answer(text)) is not None:
        return boxed
    found = list(_SAID.finditer(text))
    if not found:
        return None
    answer = found[-1]["answer"].strip()
    answer = re.split(r"\$|\\\)|\\\]|(?<=[^\d])\.\s|\.$", answer)[0]
    return answer.strip(" \t*:.$") or None


class AnswerWorkers:
    """Up to `size` algebra processes, started when needed; use from any thread, `close` at the end.

    `timeout_seconds` is for one question, without the start of a process (about two seconds).
    """

    def __init__(self, timeout_seconds: float = 10.0, size: int = 2, memory_bytes: int = 2 << 30) -> None:
        self.timeout, self._memory = timeout_seconds, memory_bytes
        self._free = threading.Semaphore(size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def compare(self, known: str, given: str) -> Equality:
        """Whether the given answer is the known one. What takes too long, or breaks the process, is UNSURE."""
        if len(given) > LONGEST:
            return Equality.UNREADABLE
        answer = self._asked({"known": known[:LONGEST], "given": given})
        return Equality.UNSURE if answer is None else Equality(answer["equality"])

    def readable(self, text: str) -> bool:
        """Whether an answer can be read as mathematics (a problem whose answer can't is none for algebra)."""
        if len(text) > LONGEST:
            return False
        answer = self._asked({"given": text})
        return answer is not None and answer["equality"] != Equality.UNREADABLE

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _asked(self, question: dict[str, str]) -> dict[str, Any] | None:
        with self._free:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            worker = worker or _Worker(self.timeout, self._memory)
            answer = worker.ask(question, self.timeout)
            if answer is None:
                worker.kill()
            else:
                with self._lock:
                    self._idle.append(worker)
            return answer


class _Worker:
    def __init__(self, timeout: float, memory: int) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qednano.grading.algebra", str(timeout), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._rest = b""
        if self._line(_START_SECONDS) is None:
            self.kill()
            raise Unavailable("the process that compares answers does not start: is math-verify installed?")

    def ask(self, question: dict[str, str], seconds: float) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._line(seconds)
        return None if line is None else json.loads(line)

    def _line(self, seconds: float) -> bytes | None:
        """The next line, or None when it does not come in time or the process is gone."""
        assert self._process.stdout is not None
        handle, end = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
            read = os.read(handle, 65536) if ready else b""
            if not read:
                return None
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
