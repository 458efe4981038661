"""What a person sees of runs under way and done."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from qednano.api import Phase, RunStatus
from qednano.api.load import load_documents
from qednano.api.status import Headline, Progress
from qednano.errors import DataError
from qednano.local.display import PlainDisplay, duration, table
from qednano.local.folders import RunFolder
from qednano.local.results import last_line, read_scores, score_rows
from qednano.local.session import RunView
from tests.local.runs import DATASET, RL, SFT


@pytest.fixture
def views(tmp_path: Path) -> list[RunView]:
    """A finished dataset, a training that is under way, and an RL run that waits."""
    (tmp_path / "runs.yaml").write_text("---".join([DATASET, SFT, RL]))
    dataset, sft, rl = (RunView(document) for document in load_documents([tmp_path / "runs.yaml"]))
    dataset.status, dataset.seconds = RunStatus(phase=Phase.SUCCEEDED), 65
    progress = Progress(
        stage="training",
        step=25,
        total=100,
        rate="2.5",
        eta_seconds=30,
        headline="0.42",
        metrics=[Headline(name="loss", value=Decimal("0.42"))],
    )
    sft.status, sft.seconds = RunStatus(phase=Phase.RUNNING, progress=progress), 10
    return [dataset, sft, rl]


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (7.4, "7s"), (65, "1m05s"), (7380, "2h03m")])
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_the_table_shows_each_run_with_its_progress(views):
    console = Console(file=io.StringIO(), width=140)
    console.print(table(views))
    _, dataset, sft, rl = console.file.getvalue().splitlines()
    assert dataset.split() == ["ProofDataset/tiny", "Succeeded", "1m05s"]
    assert sft.split()[:4] == ["SFTRun/tiny-sft", "Running", "training", "25/100"]
    assert sft.split()[-5:] == ["2.5/s", "30s", "10s", "loss", "0.42"]
    assert rl.split() == ["RLRun/tiny-rl", "Pending"]


def test_plain_lines_come_with_a_change_of_phase_and_every_ten_seconds(views):
    now = [0.0]
    file = io.StringIO()
    display = PlainDisplay(file, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 9.0, 10.0, 15.0):
        display.show(views)
    lines = file.getvalue().splitlines()
    assert lines == [
        "ProofDataset/tiny  Succeeded  1m05s",
        *["SFTRun/tiny-sft  Running  training  25/100 step  2.5/s  ETA 30s  loss 0.42"] * 2,
    ]


def finished_evaluation(folder: Path, scores: object) -> RunFolder:
    (folder / "artifact").mkdir()
    (folder / "artifact" / "scores.json").write_text(json.dumps(scores))
    return RunFolder(folder)


def test_scores_are_a_table_with_intervals(tmp_path):
    models = [
        {"name": "untrained", "mean": 0.0, "interval": [0.0, 0.01], "metrics": {}},
        {"name": "rl", "mean": 0.9, "interval": [0.88, 0.92], "metrics": {"pass@1": 0.8}},
    ]
    rows = score_rows(read_scores(finished_evaluation(tmp_path, {"models": models})))
    assert rows == [
        ["MODEL", "MEAN SCORE", "95 % INTERVAL", "PASS@1"],
        ["untrained", "0.000", "0.000 to 0.010", ""],
        ["rl", "0.900", "0.880 to 0.920", "0.800"],
    ]


def test_unreadable_scores_are_named(tmp_path):
    with pytest.raises(DataError, match=r"artifact/scores.json can't be read as scores"):
        read_scores(finished_evaluation(tmp_path, {"models": [{"name": "rl"}]}))


def test_the_last_line_is_json_with_seconds_and_what_is_unfinished(views):
    views[1].status = RunStatus(phase=Phase.FAILED, message="no memory")
    summary = json.loads(last_line(views[:2], {}, 80.04))
    assert summary == {
        "scores": {},
        "seconds": {"ProofDataset/tiny": 65.0, "SFTRun/tiny-sft": 10.0, "total": 80.0},
        "report": None,
        "unfinished": {"SFTRun/tiny-sft": "no memory"},
    }
