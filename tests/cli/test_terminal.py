"""What a person at a terminal has: completion, colours, and none of them in a pipe."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from qednano.cli import _called, app
from tests.cli.test_commands import here
from tests.local.runs import DATASET
from tests.view.artifact import write_run

QEDNANO = Path(sys.executable).with_name("qednano")
VERBS = {"run", "validate", "status", "logs", "wait", "cancel", "suspend", "resume", "compare", "report", "view"} | {
    "data", "eval", "init", "doctor", "version"
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, "first", problems=2, samples=1, calls=False)
    return folder


def asked(shell: str, words: str, root: Path) -> str:
    """What the shell's own script would be answered for the words."""
    env = {**os.environ, "QEDNANO_ROOT": str(root), "_QEDNANO_COMPLETE": f"complete_{shell}"}
    env |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": words}
    env |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return subprocess.run([QEDNANO], env=env, capture_output=True, text=True).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_verbs_and_runs_are_completed(shell: str, root: Path) -> None:
    assert "first" in asked(shell, "qednano logs fi", root)
    verbs = asked(shell, "qednano s", root)
    assert "status" in verbs and "suspend" in verbs and "logs" not in verbs
    script = subprocess.run([QEDNANO, "--show-completion", shell], capture_output=True, text=True).stdout
    assert "_QEDNANO_COMPLETE=complete_" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True).returncode == 0


def test_bash_completes_with_the_script_that_it_is_given(root: Path) -> None:
    script = (
        f"source <({QEDNANO} --show-completion bash); COMP_WORDS=(qednano wait fi); COMP_CWORD=2; "
        f'_qednano_completion {QEDNANO}; echo "${{COMPREPLY[@]}}"'
    )
    env = {**os.environ, "QEDNANO_ROOT": str(root)}
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env).stdout == "first\n"


def test_kubectl_is_told_what_may_come_next() -> None:
    plugin = QEDNANO.with_name("kubectl_complete-qednano")
    verbs = subprocess.run([plugin, ""], capture_output=True, text=True).stdout.split()
    assert set(verbs) >= VERBS and verbs[-1] == ":4"
    files = subprocess.run([plugin, "run", "examples/ti"], capture_output=True, text=True).stdout
    assert files == ":0\n"  # the shell completes file names


def test_every_verb_has_help() -> None:
    for verb in VERBS:
        done = here(verb, "--help")
        assert done.returncode == 0 and done.stdout.startswith("Usage: "), verb


def test_what_a_verb_does_is_said_whole_in_the_list() -> None:
    listed = here("--help").stdout.partition("Commands:")[2]
    assert set(line.split()[0] for line in listed.splitlines() if line.strip()) >= VERBS
    assert "..." not in listed


TALKS = {"logs": "text of others", "view": "a page in a browser", "crds": "YAML for kubectl"}
"""Verbs that have no answer to give as JSON, and what they give."""


def test_every_verb_with_an_answer_gives_it_as_json_too() -> None:
    group = typer.main.get_command(app)
    commands = {name: command for name, command in group.commands.items() if not hasattr(command, "commands")}
    commands |= {f"data {name}": command for name, command in group.commands["data"].commands.items()}
    without = {
        name for name, command in commands.items() if "--output" not in {o for p in command.params for o in p.opts}
    }
    assert without == set(TALKS)


def test_init_says_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    said = here("init", str(file), "--goal", "sft", "--yes").stdout
    assert said.startswith(f"wrote {file} (1 run); next: ")
    told = here("init", str(tmp_path / "three.yaml"), "--goal", "tiny", "--yes", "--output", "json").stdout
    assert json.loads(told) == {"file": str(tmp_path / "three.yaml"), "runs": 3}


def on_terminal(command: list[str], **env: str) -> str:
    """What the command prints when its output is a terminal."""
    mine, its = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(command, stdout=its, stderr=its, env={**inherited, "TERM": "xterm-256color", **env})
    os.close(its)
    parts = []
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:  # its end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(mine)
    process.wait()
    return b"".join(parts).decode()


def test_a_person_is_spared_the_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "runs.yaml").write_text(DATASET.replace("problems: 10", "problems: 12"))
    shown = on_terminal([str(QEDNANO), "run", str(tmp_path / "runs.yaml"), "--root", str(tmp_path / "runs")])
    assert "Succeeded" in shown and str(tmp_path / "runs") in shown
    assert "seconds" not in shown


@pytest.mark.parametrize(
    ("argv", "on_path", "called"),
    [
        (".venv/bin/qednano", "", ".venv/bin/qednano"),
        ("/opt/bin/qednano", "/opt/bin/qednano", "qednano"),
        ("/src/qednano/cli.py", "", "qednano"),
        ("/opt/bin/kubectl-qednano", "", "kubectl qednano"),
    ],
)
def test_what_to_do_next_is_said_so_that_it_can_be_typed(
    argv: str, on_path: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [argv])
    monkeypatch.setattr(shutil, "which", lambda _: on_path or None)
    assert _called() == called


def test_colours_are_for_terminals_that_want_them(root: Path) -> None:
    command = [str(QEDNANO), "status", "--root", str(root)]
    assert "\x1b[32mSucceeded\x1b[0m" in on_terminal(command)
    assert "\x1b" not in on_terminal(command, NO_COLOR="1")
    assert "\x1b" not in on_terminal(command, TERM="dumb")
    assert "\x1b" not in subprocess.run(command, capture_output=True, text=True).stdout
