"""Every question that an evaluation puts to a language model, kept so that none is paid twice and all can be replayed.

A call is found again by what was asked: the sha256 of the model's identity, the messages, the parameters with their
seed, and the place among equal questions (the path in the sample's tree). Answers are appended to a file before the
scaffold sees them; after a kill the next process reads them back and asks only what is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from qednano.errors import DataError
from qednano.jsonl import RowWriter
from qednano.llm.chat import ChatParams, Message

SampleKey = tuple[str, str, int]
"""Model, problem and index of a sample."""


class Status(StrEnum):
    """What became of a call. Answered and refused are for good; so is a question that no budget was left for."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    BUDGET = "budget"


@dataclass(frozen=True)
class Call:
    """One question and what became of it; a row of calls.parquet.

    `path` is unique in its sample, `inputs` are the paths whose text went into the question, `started` is in seconds
    since the sample began, `cost` is None where the price is unknown.
    """

    model: str
    problem: str
    index: int
    number: int
    path: str
    inputs: list[str]
    role: str
    purpose: str
    key: str
    asked: str
    messages: list[dict[str, str]]
    status: Status
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal | None = None
    seconds: float = 0.0
    started: float = 0.0
    seed: int = 0
    error: str = ""

    @property
    def sample(self) -> SampleKey:
        """The sample it belongs to."""
        return self.model, self.problem, self.index

    @property
    def parent(self) -> str:
        """The path one level up, empty at the top."""
        return self.path.rpartition("/")[0]

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> dict[str, Any]:
        """As appended to the file of calls."""
        return asdict(self) | {"cost": None if self.cost is None else str(self.cost), "status": str(self.status)}


_NAMES = {item.name for item in fields(Call)}


def from_json(row: Mapping[str, Any]) -> Call:
    """The call of a row of the file; unknown fields are passed over."""
    known = {name: value for name, value in row.items() if name in _NAMES}
    cost = known.get("cost")
    return Call(**known | {"status": Status(known["status"]), "cost": None if cost is None else Decimal(cost)})


def request_key(identity: str, messages: Sequence[Message], params: ChatParams, path: str) -> str:
    """The sha256 of what is asked, in canonical JSON: the same in every process, unlike Python's own hash."""
    asked = {
        "model": identity,
        "messages": [dict(message) for message in messages],
        "params": asdict(params) | {"schema": params.schema, "seed": params.seed},
        "place": path,
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def digest_of(*parts: object) -> str:
    """The sha256 (hex) of what something is for: equal parts give equal digests everywhere."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode(errors="surrogatepass")).hexdigest()


def seed_of(*parts: object) -> int:
    """A seed from what a call is for, 0 to 2^31 - 1."""
    return int(digest_of(*parts)[:8], 16) >> 1


@dataclass
class Spent:
    """Tokens and money of calls that were answered; `unpriced` counts those without a known price."""

    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: Decimal = field(default_factory=Decimal)
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> Decimal | None:
        """The money, None when any call's price is unknown."""
        return None if self.unpriced else self.money

    def add(self, call: Call) -> None:
        """Count one call."""
        self.calls += 1
        self.failed += call.status is not Status.ANSWERED
        self.prompt_tokens += call.prompt_tokens
        self.completion_tokens += call.completion_tokens
        if call.cost is not None:
            self.money += call.cost
        elif call.status is Status.ANSWERED:
            self.unpriced += 1


class Journal:
    """The calls of one evaluating job, appended to one file; use as a context manager.

    Memory holds no texts: for samples that are not finished, the places of their calls in the file. `total` is what
    all calls in the file have cost.
    """

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self.path, self._check = path, check
        self.total = Spent()
        self._places: dict[SampleKey, list[int]] = {}
        self._writer = RowWriter(path)

    def __enter__(self) -> Journal:
        self._writer.__enter__()
        return self

    def __exit__(self, *exit: object) -> None:
        self._writer.__exit__(*exit)

    def load(self, finished: Container[SampleKey] = ()) -> None:
        """Read what earlier processes left; calls of `finished` samples are counted and not kept."""
        for place, row in _rows(self.path):
            call = from_json(row)
            self.total.add(call)
            if call.sample not in finished:
                self._places.setdefault(call.sample, []).append(place)

    def append(self, call: Call) -> None:
        """Keep a call; when this returns, a kill of the process no longer undoes it."""
        self._check()
        self._writer.append([call.as_json()])
        self.total.add(call)

    def of(self, sample: SampleKey) -> list[Call]:
        """What earlier processes left of one sample."""
        places = self._places.get(sample, [])
        if not places:
            return []
        with self.path.open("rb") as file:
            return [_call_at(file, place) for place in places]

    def forget(self, sample: SampleKey) -> None:
        """The sample is finished: nobody will ask for its calls again."""
        self._places.pop(sample, None)


def _call_at(file: Any, place: int) -> Call:
    file.seek(place)
    return from_json(json.loads(file.readline()))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole rows with their places in the file, one at a time."""
    if not path.is_file():
        return
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # torn by a kill
            try:
                row = json.loads(line)
                yield place, {"model": row["model"], **row}
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path} line {number} is not a call; remove that line") from None
            place += len(line)


def ordered(paths: Sequence[Path], order: Callable[[SampleKey], int | None]) -> Iterator[list[Call]]:
    """The calls of several files, one list a sample, samples by `order` (None leaves one out), calls by number.

    One pass finds the places (24 bytes a call in memory), a second one reads. Of equal keys the answered call counts.
    """
    ranks, files, places = [], [], []
    for number, path in enumerate(paths):
        for place, row in _rows(path):
            rank = order((row["model"], row["problem"], row["index"]))
            if rank is not None:
                ranks.append(rank)
                files.append(number)
                places.append(place)
    rank_array = np.asarray(ranks, dtype=np.int64)
    turn = np.argsort(rank_array, kind="stable")
    handles = [path.open("rb") if path.is_file() else None for path in paths]
    try:
        start = 0
        while start < len(turn):
            end = start
            while end < len(turn) and rank_array[turn[end]] == rank_array[turn[start]]:
                end += 1
            found: dict[str, Call] = {}
            for item in turn[start:end]:
                call = _call_at(handles[files[item]], places[item])
                kept = found.get(call.key)
                if kept is None or kept.status is not Status.ANSWERED:
                    found[call.key] = call
            calls = sorted(found.values(), key=lambda call: (call.started, call.path))
            yield [replace(call, number=number) for number, call in enumerate(calls)]
            start = end
    finally:
        for handle in handles:
            if handle is not None:
                handle.close()
