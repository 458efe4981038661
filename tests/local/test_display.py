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
from qednano.artifacts import write_json
from qednano.errors import DataError
from qednano.evals.scores import SampleRow, score_all
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


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(110, set()), (100, {"STALENESS"}), (80, {"STALENESS", "━"}), (60, {"STALENESS", "━", "RATE", "STAGE"})],
)
def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_words(views, width, left_out):
    status = views[1].status
    progress = status.progress.model_copy(update={"staleness": "0.906"})
    views[1].status = status.model_copy(update={"progress": progress})
    console = Console(file=io.StringIO(), width=width)
    console.print(table(views))
    shown = console.file.getvalue()
    assert {word for word in ("STALENESS", "━", "RATE", "STAGE") if word not in shown} == left_out
    assert "…" not in shown and all(len(line.rstrip()) <= width for line in shown.splitlines())


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


def rows_of(model: str, scores: list[int]) -> list[SampleRow]:
    """Two samples of each problem."""
    return [
        SampleRow(model, f"p{index // 2}", index % 2, "", "", score, "", "{}", "stop", 10, 20, 0.1)
        for index, score in enumerate(scores)
    ]


def test_scores_of_an_evaluation_are_a_table_with_the_evaluated_model_last(tmp_path):
    rows = rows_of("rl", [7, 7, 7, 0]) + rows_of("untrained", [0, 0, 0, 0])
    scores = score_all(["rl", "untrained"], rows, {}, 2).as_json()
    write_json(tmp_path / "artifact" / "scores.json", scores)
    header, untrained, rl = score_rows(read_scores(RunFolder(tmp_path)))
    assert header == ["MODEL", "MEAN SCORE", "95 % INTERVAL", "PASS@1", "PASS@2"]
    assert untrained == ["untrained", "0.000", "0.000 to 0.000", "0.000", "0.000"]
    assert (rl[:2], rl[3:]) == (["rl", "0.750"], ["0.750", "1.000"])


def test_unreadable_scores_are_named(tmp_path):
    write_json(tmp_path / "artifact" / "scores.json", {"models": [{"name": "rl"}]})
    with pytest.raises(DataError, match=r"artifact/scores.json can't be read as scores"):
        read_scores(RunFolder(tmp_path))


def test_the_last_line_is_json_with_seconds_and_what_is_unfinished(views):
    views[1].status = RunStatus(phase=Phase.FAILED, message="no memory")
    summary = json.loads(last_line(views[:2], {}, 80.04))
    assert summary == {
        "scores": {},
        "seconds": {"ProofDataset/tiny": 65.0, "SFTRun/tiny-sft": 10.0, "total": 80.0},
        "report": None,
        "unfinished": {"SFTRun/tiny-sft": "no memory"},
    }
