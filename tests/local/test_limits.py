"""spec.limits on a laptop: the same words and ends as on a cluster."""

from __future__ import annotations

from tests.local.runs import DATASET


def test_a_run_that_takes_too_long_ends_and_says_so(workshop):
    manifest = workshop.write(DATASET.replace("restart:", "limits: {activeDeadlineSeconds: 1}\n  restart:"))
    code, output = workshop.run(manifest, script={"dataset": {"steps": 4000, "pause": 0.05}})
    assert code != 0
    assert "active for 1 s (spec.limits.activeDeadlineSeconds)" in output.replace("\n", " ")


def test_a_run_that_stands_still_is_restarted_when_asked(workshop):
    limits = "limits: {stallSeconds: 1, onStall: Restart}\n  restart:"
    manifest = workshop.write(DATASET.replace("restart:", limits))
    code, output = workshop.run(manifest, script={"dataset": {"failures": ["stand still"]}})
    assert code == 0, output
    starts = workshop.starts("proofdataset", "tiny", "dataset")
    assert [start["attempt"] for start in starts] == [1, 2]
    (folder,) = workshop.folders("proofdataset", "tiny")
    assert '"Stalled"' in (folder / "status.json").read_text()
