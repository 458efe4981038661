"""Runs from start to end on real processes: order, reuse, restarts, failures."""

from __future__ import annotations

import socket

import pytest

from qednano.api import RunStatus
from tests.local.conftest import Workshop, alive
from tests.local.runs import DATASET, RL, SFT


def status(workshop: Workshop, kind: str, name: str) -> RunStatus:
    (folder,) = workshop.folders(kind, name)
    return RunStatus.model_validate_json((folder / "status.json").read_text())


def test_runs_go_in_order_and_are_reused_the_second_time(workshop):
    manifest = workshop.write(SFT, DATASET)
    code, output = workshop.run(manifest)
    assert code == 0
    assert output.index("ProofDataset/tiny  Succeeded") < output.index("SFTRun/tiny-sft  Starting")
    code, output = workshop.run(manifest)
    assert code == 0
    assert output.splitlines() == [
        "ProofDataset/tiny  Succeeded  (as before)",
        "SFTRun/tiny-sft  Succeeded  (as before)",
    ]
    assert len(workshop.starts("sftrun", "tiny-sft", "trainer")) == 1


def test_a_changed_spec_gets_a_folder_of_its_own_and_so_do_the_runs_after_it(workshop):
    assert workshop.run(workshop.write(DATASET, SFT))[0] == 0
    changed = DATASET.replace("problems: 10", "problems: 11") + "  seed: 7\n"
    assert workshop.run(workshop.write(changed, SFT))[0] == 0
    assert len(workshop.folders("proofdataset", "tiny")) == 2
    assert len(workshop.folders("sftrun", "tiny-sft")) == 2


def test_a_changed_restart_policy_keeps_the_folder(workshop):
    assert workshop.run(workshop.write(DATASET))[0] == 0
    assert "(as before)" in workshop.run(workshop.write(DATASET.replace("maxRestarts: 2", "maxRestarts: 3")))[1]


def test_servers_and_helpers_end_with_the_essential_role(workshop):
    code, output = workshop.run(workshop.write(DATASET, SFT, RL), script={"actor": {"hang": True, "publish": False}})
    assert code == 0, output
    for role in ("rollout", "actor", "trainer"):
        (start,) = workshop.starts("rlrun", "tiny-rl", role)
        assert not alive(start["pid"])


def test_a_failure_is_retried_and_the_attempts_are_told(workshop):
    code, output = workshop.run(workshop.write(DATASET), script={"dataset": {"failures": ["unavailable", "crash"]}})
    assert code == 0
    assert (
        "restarting dataset: dataset-0 ended with code 69 (DependencyUnavailable): dataset was told to fail" in output
    )
    assert "dataset-0 ended with code 137 (Killed): killed by SIGKILL" in output
    found = status(workshop, "proofdataset", "tiny")
    assert [(attempt.reason, attempt.exit_code) for attempt in found.attempts] == [
        ("DependencyUnavailable", 69),
        ("Killed", 137),
    ]
    assert [start["attempt"] for start in workshop.starts("proofdataset", "tiny", "dataset")] == [1, 2, 3]


def test_too_many_failures_end_the_run_and_those_that_need_it(workshop):
    code, output = workshop.run(workshop.write(DATASET, SFT, RL), script={"dataset": {"failures": ["crash"] * 3}})
    assert code == 1
    assert "2 restarts did not help" in output
    assert "SFTRun/tiny-sft  Failed  not started: spec.dataset needs ProofDataset/tiny, which failed" in output
    assert "RLRun/tiny-rl  Failed  not started: spec.model needs SFTRun/tiny-sft, which failed" in output


def test_bad_data_ends_the_run_at_once_in_the_jobs_own_words(workshop):
    code, output = workshop.run(workshop.write(DATASET), script={"dataset": {"failures": ["data"]}})
    assert code == 1
    assert "dataset-0 ended with code 65 (DataError): dataset was told to fail with data" in output
    assert len(workshop.starts("proofdataset", "tiny", "dataset")) == 1


def test_a_failed_actor_is_restarted_alone(workshop):
    script = {"actor": {"failures": ["crash"], "publish": False}, "trainer": {"steps": 60, "pause": 0.05}}
    code, output = workshop.run(workshop.write(DATASET, SFT, RL), script=script)
    assert code == 0, output
    assert len(workshop.starts("rlrun", "tiny-rl", "actor")) == 2
    assert len(workshop.starts("rlrun", "tiny-rl", "trainer")) == 1
    assert len(workshop.starts("rlrun", "tiny-rl", "rollout")) == 1


def test_an_independent_run_goes_on_after_a_failure(workshop):
    other = DATASET.replace("{name: tiny}", "{name: other}", 1).replace("maxRestarts: 2", "maxRestarts: 0")
    code, output = workshop.run(workshop.write(DATASET, SFT, other), script={"trainer": {"failures": ["config"]}})
    assert code == 1
    assert "SFTRun/tiny-sft  Failed" in output
    assert "ProofDataset/other  Succeeded" in output


def test_a_suspended_run_waits_and_says_why(workshop):
    code, output = workshop.run(workshop.write(DATASET + "  suspend: true\n", SFT))
    assert code == 1
    assert "ProofDataset/tiny  Suspended  spec.suspend is true" in output
    assert "needs ProofDataset/tiny, which is suspended" in output


def test_a_run_that_leaves_no_artifact_has_failed(workshop):
    code, output = workshop.run(workshop.write(DATASET), script={"dataset": {"publish": False}})
    assert code == 1
    assert "left no finished artifact in" in output


def test_a_process_gets_its_threads_from_the_role(workshop):
    assert workshop.run(workshop.write(DATASET, SFT))[0] == 0
    assert workshop.starts("sftrun", "tiny-sft", "trainer")[0]["threads"] == "2"


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_taken_by_someone_else_is_replaced_and_not_counted(workshop, taken_port, monkeypatch):
    monkeypatch.setenv("FIRST_PORT", str(taken_port))
    code, output = workshop.run(workshop.write(DATASET.replace("maxRestarts: 2", "maxRestarts: 0")))
    assert code == 0, output
    (attempt,) = status(workshop, "proofdataset", "tiny").attempts
    assert not attempt.counted
    assert f"port {taken_port} for progress and metrics is taken" in attempt.message
