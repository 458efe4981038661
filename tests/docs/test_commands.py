"""Every command of the pages: run here, run by another test, or listed with the machine it needs."""

from __future__ import annotations

import ast
import re
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from qednano.cli import app
from tests.docs.conftest import shell
from tests.docs.pages import REPOSITORY, commands, mentions
from tests.docs.table import BY_TEST, CI, ELSEWHERE, HERE, SERVING
from tests.kube.apiserver import ApiServer
from tests.operator.chart import run_helm
from tools.cluster.api_client import MERGE

FOUND = commands()
TEXTS = list(dict.fromkeys(text for _, text in FOUND))
_NOT_OF_TEMPLATE = ("--install", "--create-namespace", "--reuse-values")
ON_CLUSTER = ".venv/bin/python -m tools.cluster "


def of_kubectl(text: str) -> str:
    """The kubectl command that is meant; empty for another command."""
    text = text.removeprefix(ON_CLUSTER) if text.startswith(f"{ON_CLUSTER}kubectl") else text
    return text if text.startswith("kubectl ") and text not in BY_TEST else ""


def of_helm(text: str) -> str:
    """A command that installs or upgrades the chart; empty for another."""
    return text if re.match(r"helm (install|upgrade) ", text) else ""


def test_every_command_is_tried_and_the_table_has_no_stale_line() -> None:
    listed = {*HERE, *SERVING, *BY_TEST, *ELSEWHERE}
    unlisted = [
        f"{where}: {text}" for where, text in FOUND if not (text in listed or of_kubectl(text) or of_helm(text))
    ]
    assert not unlisted, "say in tests/docs/table.py how these are tried:\n" + "\n".join(unlisted)
    assert not listed - set(TEXTS), "no page has these any more"


@pytest.mark.parametrize("text", [text for text in TEXTS if text in HERE])
def test_it_runs(text: str, folder: Path) -> None:
    done = shell(text, folder, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("text", sorted(SERVING))
def test_it_serves_its_first_page(text: str, folder: Path) -> None:
    command = [*shlex.split(text if text.startswith(".venv") else f".venv/bin/{text}"), "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[0]
            assert "tiny-eval" in urllib.request.urlopen(url, timeout=20).read().decode()
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode in (0, 130)


@pytest.mark.parametrize(("text", "test"), BY_TEST.items())
def test_another_test_runs_it(text: str, test: str) -> None:
    path, _, name = test.partition("::")
    source = (REPOSITORY / path).read_text()
    if test == CI:
        ran = {"make cluster": "make e2e", ".venv/bin/pytest tests/api tests/plan": "make test"}.get(text, text)
        assert re.search(rf"^(if ! )?{re.escape(ran)}\b", source, re.MULTILINE)
    else:
        assert f"def {name}(" in source


@pytest.mark.parametrize("text", [text for text in TEXTS if of_helm(text)])
def test_the_chart_takes_the_values(text: str, folder: Path) -> None:
    words = [word for word in shlex.split(text) if word not in _NOT_OF_TEMPLATE][1:]
    rendered = run_helm("template", *[REPOSITORY / word if word == "charts/qednano" else word for word in words[1:]])
    assert rendered.returncode == 0, rendered.stderr
    assert "kind: Deployment" in rendered.stdout


@pytest.fixture
def namespaces(qed_server: ApiServer) -> Iterator[None]:
    """The namespace that the pages speak of; what is made in it, and in others, goes again."""
    made = ("ml", "qednano-system")
    for name in made:
        qed_server.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield
    for name in ("default", *made, "qed"):
        qed_server.kubectl("delete", "qed", "--all", "-n", name, "--wait=false")


def succeed(server: ApiServer) -> None:
    """The end of every run of the namespace, as the operator writes it."""
    for plural in ("proofdatasets", "sftruns", "rlruns", "evalruns"):
        path = f"/apis/qednano.dev/v1alpha1/namespaces/ml/{plural}"
        condition = {
            "type": "Succeeded",
            "status": "True",
            "reason": "Done",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for item in server.client.request("GET", path)["items"]:
            status = {"status": {"phase": "Succeeded", "conditions": [condition]}}
            server.client.request("PATCH", f"{path}/{item['metadata']['name']}/status", status, MERGE)


@pytest.mark.apiserver
def test_kubectl_takes_what_the_pages_say(
    qed_server: ApiServer, folder: Path, kubectl_env: dict[str, str], namespaces: None
) -> None:
    failed = []
    for where, text in FOUND:
        command = of_kubectl(text)
        if not command:
            continue
        if " wait " in command:
            succeed(qed_server)
        if " delete " in command:
            command += " --dry-run=client"  # other tests need what it deletes
        if " --disable-openapi" not in command and " apply " in command:
            command = command.replace(
                " apply ", " apply --validate=false "
            )  # its schemas are an older kube-apiserver's
        try:
            done = shell(command, folder, **kubectl_env)
        except subprocess.TimeoutExpired:
            failed.append(f"{where}: {text}: did not end")
            continue
        if done.returncode != 0:
            failed.append(f"{where}: {text}: {done.stderr.strip()}")
    assert not failed, "\n".join(failed)


# -- words of commands that are not run here ---------------------------------------------------------------------------


def options_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that the words name, and the words after it."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_words(text: str) -> None:
    """Raise AssertionError for a verb, flag, target or module that is not there."""
    words = shlex.split(text.partition("|")[0].replace("…", "X"))
    if words[0] == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
        assert words[1] in targets, f"the Makefile has no target {words[1]}"
    elif words[:2] == ["kubectl", "qednano"] or words[0].endswith("qednano"):
        command, rest = options_of(words[2 if words[0] == "kubectl" else 1 :])
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
        assert known.issuperset(flags), f"{text}: no option {set(flags) - known}"
    elif "-m" in words:
        module = words[words.index("-m") + 1]
        place = REPOSITORY / module.replace(".", "/").removesuffix("…")
        source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__main__.py"
        assert source.is_file(), f"there is no module {module}"
        strings = {node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)}
        flags = [word for word in words[words.index("-m") + 2 :] if word.startswith("--")]
        assert strings.issuperset(flags), f"{module} has no option {set(flags) - strings}"


@pytest.mark.parametrize("text", ELSEWHERE)
def test_its_words_are_right_though_it_needs_another_machine(text: str) -> None:
    assert ELSEWHERE[text]
    check_words(text)


def test_commands_within_sentences_are_right() -> None:
    found = mentions()
    assert len(found) > 30
    failed = []
    for where, text in found:
        try:
            check_words(text)
        except AssertionError as error:
            failed.append(f"{where}: {text}: {str(error).splitlines()[0]}")
    assert not failed, "\n".join(failed)


def test_a_wrong_word_is_noticed() -> None:
    for text in (
        "make dinner",
        "qednano runn x",
        "qednano run x --fast",
        "python -m bench.nothing",
        "kubectl qednano stop",
    ):
        with pytest.raises(AssertionError):
            check_words(text)
