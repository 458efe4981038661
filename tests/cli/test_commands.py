"""The command line as a person uses it: real processes, exit codes, sentences."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from qednano import __version__, cli
from tests.local.conftest import Workshop, workshop  # noqa: F401
from tests.local.runs import DATASET, SFT

REPOSITORY = Path(__file__).resolve().parents[2]


def qednano(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qednano.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=os.environ)


def here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, without the start-up: for answers that depend on nothing but arguments and files."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["qednano", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("words", [["--help"], ["version"], ["status", "--help"], ["eval", "--help"]])
def test_nothing_heavy_is_imported_for_a_quick_answer(words: list[str]):
    code = (
        "import sys; sys.argv = ['qednano', *sys.argv[1:]]; from qednano.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'vllm', 'datasets', 'kubernetes', 'numpy', 'pyarrow', 'yaml', 'rich', "
        "'qednano.api', 'starlette', 'asyncio')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_the_local_runner_imports_no_ml_stack():
    code = (
        "import sys; import qednano.local.session, qednano.local.results, qednano.local.display; "
        "print([m for m in ('torch', 'vllm', 'transformers', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_version():
    assert qednano("version").stdout == f"{__version__}\n"


def test_validate_counts_what_is_valid(tmp_path):
    (tmp_path / "runs.yaml").write_text(f"{DATASET}---{SFT}")
    done = qednano("validate", tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 valid: ProofDataset/tiny, SFTRun/tiny-sft\n")


def test_validate_names_every_mistake_with_file_and_line(tmp_path):
    file = tmp_path / "runs.yaml"
    file.write_text(
        DATASET.replace("problems: 10", "problems: none").replace("seed", "sed") + "---" + SFT + "  sead: 1\n"
    )
    done = qednano("validate", file)
    assert done.returncode == 78
    assert f"{file}:7: spec.splits[0].problems" in done.stderr
    assert "spec.sead: there is no such field; did you mean seed?" in done.stderr


def test_validate_finds_a_reference_that_leads_nowhere(tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text(SFT)
    done = qednano("validate", file, "-o", "json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["valid"]) == (78, False)
    assert "spec.dataset of SFTRun/tiny-sft refers to ProofDataset/tiny" in answer["mistakes"][0]


def test_validate_knows_the_roles_that_a_placement_may_name(tmp_path):
    file = tmp_path / "runs.yaml"
    file.write_text(f"{DATASET}  scheduling: {{placement: {{trainer: {{priorityClassName: low}}}}}}\n")
    done = qednano("validate", file)
    assert done.returncode == 78
    assert f"{file}:2: spec.scheduling.placement names role trainer, but the run's roles are dataset" in done.stderr


def test_validate_knows_the_administrators_profiles(tmp_path):
    file, profiles = tmp_path / "runs.yaml", tmp_path / "profiles.yaml"
    file.write_text(f"{DATASET}  profile: h200\n")
    profiles.write_text("h100: {}\n")
    assert qednano("validate", file).returncode == 0
    done = qednano("validate", file, "--profiles", profiles)
    assert done.returncode == 78
    assert "spec.profile is h200, but the profiles here are h100" in done.stderr


def test_an_error_is_one_sentence_and_no_traceback(tmp_path):
    done = qednano("run", tmp_path / "missing.yaml", "--root", tmp_path / "root")
    assert done.returncode == 78
    assert done.stderr == f"{tmp_path}/missing.yaml:1: there is no such file or folder\n"


def test_crds_are_four_documents_for_kubectl():
    import yaml

    documents = list(yaml.safe_load_all(qednano("crds").stdout))
    assert [item["spec"]["names"]["kind"] for item in documents] == ["ProofDataset", "SFTRun", "RLRun", "EvalRun"]


def test_doctor_says_what_is_here():
    found = {item["what"]: item for item in json.loads(qednano("doctor", "-o", "json").stdout)}
    assert found["python"]["found"].startswith("3.")
    assert found["cores"]["found"].isdigit()
    assert all(item["ok"] or item["remedy"] for item in found.values())


@pytest.fixture
def done(workshop: Workshop) -> Path:  # noqa: F811
    """A root with two finished runs."""
    code, output = workshop.run(workshop.write(DATASET, SFT))
    assert code == 0, output
    return workshop.root


def test_a_finished_root_can_be_looked_at(done: Path):
    listed = json.loads(qednano("status", "--root", done, "-o", "json").stdout)
    assert [(item["run"], item["phase"]) for item in listed] == [
        ("ProofDataset/tiny", "Succeeded"),
        ("SFTRun/tiny-sft", "Succeeded"),
    ]
    text = qednano("status", "--root", done).stdout
    assert str(listed[1]["folder"]) in text and "Succeeded" in text

    assert "INFO qednano.job: done" in qednano("logs", "tiny-sft/trainer", "--root", done).stdout
    assert "done" in qednano("logs", "ProofDataset/tiny", "--root", done).stdout

    missing = qednano("logs", "tiny-sft/actor", "--root", done)
    assert missing.returncode == 64
    assert "has no log of any role actor; its files are: trainer-0.a1.log" in missing.stderr
    nobody = qednano("logs", "nobody", "--root", done)
    assert nobody.stderr == (f"there is no run nobody under {done}; its runs are: ProofDataset/tiny, SFTRun/tiny-sft\n")
    report = qednano("report", "--root", done)
    assert (report.returncode, report.stderr) == (
        64,
        f"no EvalRun of models has finished under {done}; run one first\n",
    )


def test_run_ends_with_one_line_of_json(done: Path, tmp_path: Path):
    manifest = tmp_path / "runs.yaml"
    again = qednano("run", manifest, "--root", done)
    assert again.returncode == 0, again.stderr
    assert "SFTRun/tiny-sft  Succeeded  (as before)" in again.stdout
    last = json.loads(again.stdout.splitlines()[-1])
    assert (last["scores"], last["report"]) == ({}, None)
    assert set(last["seconds"]) == {"ProofDataset/tiny", "SFTRun/tiny-sft", "total"}
    assert "\x1b" not in again.stdout


def test_a_root_that_is_a_file_is_said(tmp_path):
    root = tmp_path / "file"
    root.write_text("")
    assert qednano("status", "--root", root).returncode == 0
    (tmp_path / "runs.yaml").write_text(DATASET)
    done = qednano("run", tmp_path / "runs.yaml", "--root", root)
    assert done.returncode == 64
    assert f"--root is {root}, which can't be used" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["version"], ["run", "--help"]])
def test_an_answer_that_needs_nothing_starts_within_300_ms(words: list[str]) -> None:
    """Of processor time, so that other work on the machine counts for nothing; the best of five."""

    def spent() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "qednano.cli", *words], capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    times = [spent() for _ in range(5)]
    assert min(times) < 0.3, f"seconds of five starts: {times}"


def test_a_list_of_runs_imports_no_spec_of_a_run(tmp_path):
    """What keeps `qednano status` near an empty start: specs of all kinds are half a second on a busy machine."""
    folder = tmp_path / "default" / "sftrun" / "one-12345678"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "status.json").write_text('{"phase": "Succeeded"}')
    code = (
        "import sys; from qednano.cli import app\n"
        f"app(['status', '--root', {str(tmp_path)!r}], standalone_mode=False)\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *table, modules = done.stdout.splitlines()
    assert "SFTRun/one" in table[1]
    assert "qednano.api.status" in modules.split()
    costly = {
        "qednano.api.kinds",
        "qednano.plan",
        "qednano.job",
        "prometheus_client",
        "yaml",
        "rich",
        "kubernetes",
        "torch",
    }
    assert not costly & set(modules.split())
