"""Process trees end with their command and with the runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qednano.local import process
from tests.local.conftest import alive, wait_for

FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
{then}
"""


@pytest.fixture
def tethered(tmp_path: Path):
    """Start a command on a tether; ``leash`` is the end to close."""
    reading, leash = os.pipe()
    started = []

    def start(then: str, grace: float = 5.0) -> tuple[subprocess.Popen, Path]:
        told = tmp_path / "grandchild"
        command = [sys.executable, "-I", "-S", process._TETHER, str(grace), str(reading), "--"]
        command += [sys.executable, "-c", FAMILY.format(then=then), str(told)]
        started.append(subprocess.Popen(command, pass_fds=[reading], start_new_session=True))
        wait_for(lambda: told.exists() and told.read_text(), "the family to be there")
        return started[-1], int(told.read_text()), leash

    yield start
    for family in started:
        family.send_signal(signal.SIGUSR1)
        family.wait(10)
    os.close(reading)


@pytest.mark.parametrize(("then", "code"), [("sys.exit(76)", 76), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_commands_code_is_kept_and_its_orphans_are_killed(tethered, then, code):
    family, grandchild, _ = tethered(then)
    assert family.wait(10) == code
    assert not alive(grandchild)


def test_sigterm_reaches_the_command_alone_and_it_decides_the_code(tethered):
    family, grandchild, _ = tethered("import signal; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(600)")
    family.send_signal(signal.SIGTERM)
    assert family.wait(10) in (75, 143)  # 143 when the signal came before the handler was there
    assert not alive(grandchild)


def test_a_lost_runner_ends_a_tree_that_ignores_sigterm(tethered):
    family, grandchild, leash = tethered("import signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)", grace=0.5)
    os.close(leash)
    assert family.wait(10) in (137, 143)
    assert not alive(grandchild)


def test_a_command_that_does_not_exist_says_so(capfd):
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", process._TETHER, "1", str(reading), "--", "/nonexistent/command"]
    assert subprocess.run(command, pass_fds=[reading]).returncode == 127
    assert "/nonexistent/command can't be started" in capfd.readouterr().err
    os.close(reading)
    os.close(writing)
