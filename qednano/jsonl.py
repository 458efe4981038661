"""Append-only JSON lines that survive any crash: a reader sees whole rows, a writer cuts off a torn last one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from qednano.errors import DataError

_CHUNK = 1 << 16


def writable(text: str) -> str:
    """The text with lone surrogates replaced, which no file can hold."""
    return text.encode(errors="replace").decode()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows; none when there is no file. Raises DataError naming the line of a row that is no JSON object."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is not a JSON object; remove that line")
        rows.append(row)
    return rows


class RowWriter:
    """Appends rows to one file; use as a context manager. `append` returns when the system has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO

    def __enter__(self) -> RowWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        self._file.truncate(_whole(self._file))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the rows behind what is there."""
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        self._file.write(text.encode())
        self._file.flush()


def _whole(file: BinaryIO) -> int:
    """The length up to the last whole row; read from the end, since a file may be larger than memory."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _CHUNK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
