"""A ProofDataset from and to a Hub: as the job runs it, against a small server that speaks the Hub's protocol."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qednano import artifacts
from qednano.data.layouts import FINE_PROOFS_RL, FINE_PROOFS_SFT
from qednano.data.show import rows_of
from tests.data.hub_server import TOKEN, serve


@pytest.fixture
def hub():
    found, server = serve()
    yield found
    server.shutdown()
    server.server_close()


def parquet(rows, schema=None):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


SFT = [
    {
        "problem": f"Prove that {number} + {number} = {2 * number}.",
        "reasoning_content": "Add.",
        "proof": f"Adding gives {2 * number}.",
        "category": "Algebra",
        "competition": "IMO-2023",
        "gemini-3-pro-grade": 6,
        "qwen3-4b-thinking-reward@128": 0.25,
        "source": "olympiads",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}],
    }
    for number in range(20, 60)
]
CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"


def run_job(folder, hub, spec, token=TOKEN, **kwargs):
    config = {"apiVersion": "qednano.dev/v1alpha1", "kind": "ProofDataset", "name": "fp", "spec": spec}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    env = os.environ | {
        "QED_CONFIG": str(folder / "config.json"),
        "QED_RUN_DIR": str(folder / "run"),
        "QED_ROLE": "dataset",
        "QED_SCRATCH": str(folder / "scratch"),
        "QED_TERMINATION_PATH": str(folder / "last-words"),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",  # Xet's own servers are beyond a test; the Hub takes plain uploads as well
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HUB_TOKEN": token,
        "no_proxy": "127.0.0.1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "qednano_jobs.dataset"], env=env, stderr=subprocess.PIPE, text=True, **kwargs
    )


def outcome(folder, hub, spec, **kwargs):
    process = run_job(folder, hub, spec, **kwargs)
    _, log = process.communicate(timeout=120)
    return process.returncode, json.loads((folder / "last-words").read_text()), log


def from_hub(**more):
    return {
        "sources": [{"name": "fp", "hub": {"id": "lm-provers/FineProofs-SFT"}}],
        "splits": [{"name": "test", "problems": 10}, {"name": "train"}],
        **more,
    }


PUBLISH = {"id": "me/proofs", "token": {"name": "hub", "key": "token"}}


def test_a_dataset_of_the_hub_at_a_commit_becomes_splits(tmp_path, hub):
    repository = hub.dataset("lm-provers/FineProofs-SFT", {"README.md": CARD, "data/train-0.parquet": parquet(SFT)})
    code, said, log = outcome(tmp_path, hub, from_hub())
    assert (code, said["message"]) == (0, "fp: 10 test, 30 train problems"), log
    manifest = artifacts.read_manifest(tmp_path / "run/artifact")
    assert manifest.inputs == {"hf://lm-provers/FineProofs-SFT@main": {"commit": repository.sha}}
    row = pq.read_table(tmp_path / "run/artifact/train.parquet").to_pylist()[0]
    assert row["reasoning"] == ["Add."] and row["scores"] == [6.0] and row["mean_reward"] == 0.25
    assert row["source"] == "olympiads" and json.loads(row["meta"])["competition"] == "IMO-2023"
    assert any(repository.sha in line and "train-0.parquet" in line for line in hub.asked)
    assert hub.uploads == []


def test_a_push_that_broke_off_goes_on_without_sending_twice(tmp_path, hub):
    hub.dataset("lm-provers/FineProofs-SFT", {"README.md": CARD, "data/train-0.parquet": parquet(SFT)})
    spec = from_hub(publish=PUBLISH)
    hub.uploads_left = 1
    process = run_job(tmp_path, hub, spec)
    assert hub.broken.wait(120), process.communicate()
    process.kill()
    process.communicate()
    assert len(hub.uploads) == 1 and hub.repositories["me/proofs"].files == {}  # nobody sees a half
    hub.uploads_left = None
    code, said, log = outcome(tmp_path, hub, spec)
    assert (code, said["outcome"]) == (0, "Succeeded"), log
    assert len(hub.uploads) == len(set(hub.uploads)) == 2
    pushed = hub.repositories["me/proofs"]
    assert pushed.private and {"train.parquet", "test.parquet", "README.md", "report.html"} <= pushed.files.keys()
    assert pushed.files["train.parquet"] == (tmp_path / "run/artifact/train.parquet").read_bytes()
    before = list(pushed.commits)
    assert outcome(tmp_path, hub, spec)[0] == 0  # done: not pushed again
    assert pushed.commits == before


@pytest.mark.parametrize(
    ("layout", "schema", "expected"),
    [
        (
            "FineProofsSFT",
            FINE_PROOFS_SFT,
            {"proof": "Adding gives 40.", "gemini-3-pro-grade": 6, "category": "Algebra"},
        ),
        ("FineProofsRL", FINE_PROOFS_RL, {"reward_mean": 0.25, "source": "olympiads", "scores": []}),
    ],
)
def test_what_is_pushed_in_the_layout_of_a_published_set_loads_here_and_there(tmp_path, hub, layout, schema, expected):
    (tmp_path / "sft.parquet").write_bytes(parquet(SFT, FINE_PROOFS_SFT))
    files = {"sources": [{"name": "fp", "files": {"uris": [str(tmp_path / "sft.parquet")]}}]}
    code, _, log = outcome(tmp_path, hub, from_hub(**files, publish={**PUBLISH, "layout": layout}))
    assert code == 0, log
    published = hub.repositories["me/proofs"].files
    tables = [pq.read_table(io.BytesIO(published[f"{split}.parquet"])) for split in ("train", "test")]
    assert all(table.schema.equals(schema) for table in tables)
    records = {record["problem"]: record for table in tables for record in table.to_pylist()}
    assert len(records) == len(SFT)
    record = records["Prove that 20 + 20 = 40."]
    assert record | expected == record
    (tmp_path / "train.parquet").write_bytes(published["train.parquet"])
    rows = list(rows_of(tmp_path / "train.parquet"))
    assert len(rows) == 30 and {row.mean_reward for row in rows} == {0.25}
    assert all(bool(row.solutions) == (layout == "FineProofsSFT") for row in rows)


@pytest.mark.parametrize(
    ("spec", "token", "code", "said"),
    [
        (from_hub(publish=PUBLISH), "wrong", 78, "publish: the Hub refuses to write me/proofs"),
        (from_hub(publish=PUBLISH), "", 78, "publish.token names the Secret hub with key token, which is not there"),
        (
            {**from_hub(), "sources": [{"name": "x", "hub": {"id": "no/such"}}]},
            TOKEN,
            78,
            "the Hub has no dataset no/such",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(tmp_path, hub, spec, token, code, said):
    hub.dataset("lm-provers/FineProofs-SFT", {"README.md": CARD, "data/train-0.parquet": parquet(SFT)})
    found, words, log = outcome(tmp_path, hub, spec, token=token)
    assert (found, said in words["message"]) == (code, True), (words, log)
