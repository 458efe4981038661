"""Ctrl-C, kill -9 and two runners at once."""

from __future__ import annotations

import signal

import pytest

from qednano.local.folders import RunFolder, as_seen, in_use
from tests.local.conftest import Workshop, alive, wait_for
from tests.local.runs import DATASET, RL, SFT

SLOW = {"steps": 400, "pause": 0.02}
STAGES = {
    "dataset": ("proofdataset", "tiny"),
    "sft": ("sftrun", "tiny-sft"),
    "rl": ("rlrun", "tiny-rl"),
}


def started(workshop: Workshop, kind: str, name: str) -> list[dict]:
    roles = {"proofdataset": ["dataset"], "sftrun": ["trainer"], "rlrun": ["trainer", "actor", "rollout"]}[kind]
    starts = [workshop.starts(kind, name, role) for role in roles]
    return [found[-1] for found in starts] if all(starts) else []


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_saves_and_the_same_command_resumes(workshop, stage):
    kind, name = STAGES[stage]
    # The earlier stages are run to their end first, so that the slow script is that of the stage alone.
    earlier = {"dataset": [], "sft": [DATASET], "rl": [DATASET, SFT]}[stage]
    if earlier:
        assert workshop.run(workshop.write(*earlier))[0] == 0
    manifest = workshop.write(DATASET, SFT, RL)
    runner = workshop.start(manifest, script={"dataset": SLOW, "trainer": SLOW, "actor": {"publish": False}})
    wait_for(lambda: started(workshop, kind, name), f"{stage} to be under way")
    pids = [start["pid"] for start in started(workshop, kind, name)]
    (folder,) = workshop.folders(kind, name)
    wait_for(lambda: '"count"' in (folder / "status.json").read_text(), "progress to be seen")
    runner.send_signal(signal.SIGINT)
    output = runner.communicate(timeout=40)[0]
    assert runner.returncode == 130
    assert "Suspended" in output
    assert not any(alive(pid) for pid in pids)
    role = "dataset" if stage == "dataset" else "trainer"
    saved = int((folder / f"{role}-0.step").read_text())
    assert 0 < saved < 400

    code, output = workshop.run(manifest)
    assert code == 0, output
    assert workshop.folders(kind, name) == [folder]
    starts = workshop.starts(kind, name, role)
    assert [start["attempt"] for start in starts] == [1, 2]


def test_a_second_ctrl_c_does_not_wait(workshop):
    runner = workshop.start(workshop.write(DATASET), script={"dataset": {"hang": True}})
    wait_for(lambda: workshop.starts("proofdataset", "tiny", "dataset"), "the job to hang")
    (start,) = workshop.starts("proofdataset", "tiny", "dataset")
    runner.send_signal(signal.SIGINT)
    for line in runner.stdout:
        if line.startswith("Saving and stopping"):
            break
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=10)
    assert runner.returncode == 130
    assert not alive(start["pid"])


def test_kill_9_of_the_runner_leaves_no_process_and_no_lock(workshop):
    earlier = workshop.write(DATASET, SFT, name="earlier.yaml")
    assert workshop.run(earlier)[0] == 0
    script = {"trainer": SLOW | {"grandchild": True}, "actor": SLOW | {"publish": False}}
    manifest = workshop.write(DATASET, SFT, RL)
    runner = workshop.start(manifest, script=script)
    wait_for(lambda: started(workshop, "rlrun", "tiny-rl"), "all roles to be under way")
    pids = [start["pid"] for start in started(workshop, "rlrun", "tiny-rl")]
    grandchild = workshop.starts("rlrun", "tiny-rl", "trainer")[0]["grandchild"]
    runner.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in [*pids, grandchild]), "every process to be gone", 15)
    wait_for(lambda: not in_use(workshop.root), "the lock to be free")
    (folder,) = workshop.folders("rlrun", "tiny-rl")
    seen = as_seen(RunFolder(folder).status(), root_in_use=False)
    assert (seen.phase, seen.message) == ("Suspended", "its runner is gone; `qednano run` resumes it")
    code, output = workshop.run(manifest)
    assert code == 0, output
    assert len(workshop.folders("rlrun", "tiny-rl")) == 1


def test_two_runners_on_one_root_do_not_collide(workshop):
    manifest = workshop.write(DATASET)
    runner = workshop.start(manifest, script={"dataset": SLOW})
    wait_for(lambda: workshop.starts("proofdataset", "tiny", "dataset"), "the first to be under way")
    code, output = workshop.run(manifest)
    assert code == 69
    assert f"is in use by another qednano run, process {runner.pid}" in output
    runner.send_signal(signal.SIGTERM)
    runner.communicate(timeout=40)
    assert runner.returncode == 143
