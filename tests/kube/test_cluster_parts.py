"""The decisions of the cluster tool that need no cluster."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from tools.cluster import binaries, pip_settings
from tools.cluster.__main__ import choose
from tools.cluster.aggregation import served
from tools.cluster.daemons import Daemon
from tools.cluster.errors import ClusterError
from tools.cluster.existing import ExistingCluster
from tools.cluster.images import NAMES, inputs_of
from tools.cluster.layers import StoredImage
from tools.cluster.network import overlapping
from tools.cluster.paths import REPOSITORY
from tools.cluster.steps import run, wait_until


def test_only_established_served_versions_get_an_api_service() -> None:
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    versions = [{"name": "v1", "served": True}, {"name": "v1alpha1", "served": False}]
    crd = {"metadata": {}, "spec": {"group": "a.example", "versions": versions}, "status": established}
    waiting = {**crd, "status": {}}
    leaving = {**crd, "metadata": {"deletionTimestamp": "now"}}
    assert served([crd, waiting, leaving]) == {("a.example", "v1")}


def test_a_route_into_the_clusters_ranges_is_a_conflict() -> None:
    routes = [{"dst": "default", "dev": "eth0"}, {"dst": "10.205.0.0/16", "dev": "vpn0"}, {"dst": "192.0.2.0/24"}]
    assert overlapping(routes, ("10.205.0.0/24", "10.206.0.0/16")) == ["10.205.0.0/16 (vpn0)"]


def test_a_named_kubeconfig_is_used_before_anything_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QEDNANO_KUBECONFIG", str(tmp_path / "other"))
    assert choose(str(tmp_path / "mine"), native=False) == ExistingCluster(tmp_path / "mine")
    assert choose(None, native=False) == ExistingCluster(tmp_path / "other")
    with pytest.raises(ClusterError, match="does not exist"):
        choose(None, native=False).up()


def test_an_envtest_bundle_must_be_whole_and_know_cel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(ClusterError, match="holds no etcd"):
        binaries.from_assets()
    for name in ("etcd", "kubectl", "kube-apiserver"):
        (tmp_path / name).write_text("#!/bin/sh\necho Kubernetes v1.24.2\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ClusterError, match=r"1\.24.*1\.29 or newer"):
        binaries.from_assets()
    (tmp_path / "kube-apiserver").write_text("#!/bin/sh\necho Kubernetes v1.34.1\n")
    found = binaries.from_assets()
    assert found is not None and found.version == (1, 34) and found.crd_server is None


def test_a_daemon_is_found_again_and_stopped_but_a_reused_pid_is_not(tmp_path: Path) -> None:
    daemon = Daemon("sleeper", tmp_path)
    daemon.start([sys.executable, "-c", "import time; time.sleep(600)"])
    pid = Daemon("sleeper", tmp_path).pid()
    assert pid is not None
    daemon.stop()
    assert not Path(f"/proc/{pid}").exists()
    (tmp_path / "sleeper.pid").write_text(f"{os.getpid()} 1\n")
    assert daemon.pid() is None


def test_a_daemon_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    daemon = Daemon("doomed", tmp_path)
    daemon.start(["sh", "-c", "echo the port is taken; exit 1"])
    with pytest.raises(ClusterError, match=r"doomed has ended .*the port is taken"):
        wait_until(lambda: False, what="doomed", seconds=20, alive=daemon.check_alive)


def test_a_failed_command_reads_as_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"^counting failed with exit status 3: no numbers \(all of it: .*/log\)$"):
        run(["sh", "-c", "echo one; echo no numbers; exit 3"], what="counting", log=tmp_path / "log")
    with pytest.raises(ClusterError, match="needs the command 'no-such-command'"):
        run(["no-such-command"], what="counting")


def test_local_indexes_of_pip_are_mounted_with_the_files_they_link_to(tmp_path: Path) -> None:
    wheels, simple = tmp_path / "wheels", tmp_path / "mirror/simple"
    wheels.mkdir()
    simple.mkdir(parents=True)
    settings = {"find-links": str(wheels), "extra-index-url": f"file://{simple} https://pypi.org/simple"}
    assert pip_settings.volumes(settings, tmp_path / "pip.conf") == [
        f"{tmp_path / 'pip.conf'}:/etc/pip.conf:ro",
        f"{tmp_path / 'mirror'}:{tmp_path / 'mirror'}:ro",
        f"{wheels}:{wheels}:ro",
    ]
    assert f"find-links = {wheels}" in (tmp_path / "pip.conf").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_made_of_files_that_exist(name: str) -> None:
    recipe = REPOSITORY / "images" / name / "Dockerfile"
    inputs = {path.relative_to(REPOSITORY).as_posix() for path in inputs_of(recipe)}
    assert {"images/install-packages", f"requirements/{name}.txt", "qednano/errors.py"} <= inputs


def test_trainer_and_server_share_their_large_layers() -> None:
    """Layers are shared only while the instructions before them are the same, letter by letter."""
    stages = [
        (REPOSITORY / "images" / name / "Dockerfile").read_text().partition(" AS torch")[2].partition("\nFROM ")[0]
        for name in ("trainer", "server")
    ]
    assert stages[0] == stages[1] and "torch.txt" in stages[0]


def test_an_image_is_read_from_storage_without_the_layers_the_reader_has(tmp_path: Path) -> None:
    layers = {name: _store_layer(tmp_path, name, content) for name, content in (("base", b"old"), ("code", b"new" * 9))}
    manifest = _store_image(tmp_path, "localhost/app:dev", list(layers.values()))
    image = StoredImage(tmp_path, "localhost/app:dev")
    sink = io.BytesIO()
    image.write(sink, without={_digest(layers["base"])})
    sink.seek(0)
    with tarfile.open(fileobj=sink) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    blobs = {name.removeprefix("blobs/sha256/"): data for name, data in content.items() if name.startswith("blobs")}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())
    assert manifest in blobs.values() and layers["code"] in blobs.values() and layers["base"] not in blobs.values()
    index = json.loads(content["index.json"])
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "localhost/app:dev"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _store_layer(storage: Path, name: str, content: bytes) -> bytes:
    """Lays a layer of one file in a storage folder as containers-storage does; returns its tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(f"{name}.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    tar = buffer.getvalue()
    folder = storage / "overlay" / name / "diff"
    folder.mkdir(parents=True)
    (folder / f"{name}.txt").write_bytes(content)
    before, after = base64.b64encode(tar[:512]).decode(), base64.b64encode(tar[512 + len(content) :]).decode()
    entries = [
        {"type": 2, "payload": before},
        {"type": 1, "name": f"{name}.txt", "size": len(content), "payload": ""},
        {"type": 2, "payload": after},
    ]
    records = storage / "overlay-layers/layers.json"
    records.parent.mkdir(exist_ok=True)
    known = json.loads(records.read_text()) if records.exists() else []
    records.write_text(json.dumps([*known, {"id": name, "diff-digest": _digest(tar)}]))
    with gzip.open(records.parent / f"{name}.tar-split.gz", "wt") as split:
        split.writelines(json.dumps(entry) + "\n" for entry in entries)
    return tar


def _store_image(storage: Path, name: str, layers: list[bytes]) -> bytes:
    config = b"{}"
    manifest = json.dumps(
        {
            "config": {"digest": _digest(config), "size": len(config)},
            "layers": [{"digest": _digest(layer), "size": len(layer)} for layer in layers],
        }
    ).encode()
    folder = storage / "overlay-images/one"
    folder.mkdir(parents=True)
    (folder.parent / "images.json").write_text(json.dumps([{"id": "one", "names": [name]}]))
    (folder / "manifest").write_bytes(manifest)
    (folder / f"={base64.b64encode(_digest(config).encode()).decode()}").write_bytes(config)
    return manifest
