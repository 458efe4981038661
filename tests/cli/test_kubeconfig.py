"""A kubeconfig means what it means to kubectl, and what can't be used is told in a sentence."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from qednano_operator import certificates

from qednano.errors import ConfigError
from qednano.steer.kubeconfig import Connection, load


def write(file: Path, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **more: Any) -> Path:
    document = {
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
        **more,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Load one kubeconfig with the given parts."""

    def make(user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **more: Any) -> Connection:
        monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "config", user, cluster, **more)))
        return load()

    return make


def credential(tmp_path: Path, answer: Any, code: int = 0) -> str:
    """A log-in program that answers so, and keeps what it was told."""
    file = tmp_path / "login"
    file.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"open({str(tmp_path / 'told')!r}, 'w').write(os.environ['KUBERNETES_EXEC_INFO'] + os.environ.get('WHO', ''))\n"
        f"print({json.dumps(answer)!r})\nprint('no such account', file=sys.stderr)\nsys.exit({code})\n"
    )
    file.chmod(0o755)
    return str(file)


def test_a_context_gives_server_namespace_and_token(loaded) -> None:
    found = loaded({"token": "secret"}, {"proxy-url": "http://proxy:3128", "tls-server-name": "api"})
    assert (found.server, found.namespace) == ("http://127.0.0.1:1", "ml")
    assert (found.proxy, found.server_name, found.tls) == ("http://proxy:3128", "api", None)
    assert found.headers == {"Authorization": "Bearer secret"}


def test_files_are_merged_and_the_first_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "a" / "config", {"tokenFile": "token"}, **{"current-context": ""})
    (tmp_path / "a" / "token").write_text("of a\n")  # relative to its kubeconfig, not to this folder
    second = write(tmp_path / "b" / "config", {"token": "of b"}, {"server": "http://elsewhere"})
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{tmp_path / 'none'}")
    assert load().headers == {"Authorization": "Bearer of a"} and load("one").server == "http://127.0.0.1:1"
    with pytest.raises(ConfigError, match="no context 'two'; it has: one"):
        load("two")


def test_a_log_in_program_is_asked(loaded, tmp_path: Path) -> None:
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "fresh"},
    }
    plan = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": credential(tmp_path, answer),
        "env": [{"name": "WHO", "value": "me"}],
        "provideClusterInfo": True,
    }
    assert loaded({"exec": plan}).headers == {"Authorization": "Bearer fresh"}
    told = (tmp_path / "told").read_text()
    asked = json.loads(told.removesuffix("me"))
    assert told.endswith("me") and asked["apiVersion"] == plan["apiVersion"]
    assert asked["spec"] == {"interactive": False, "cluster": {"server": "http://127.0.0.1:1/"}}


@pytest.mark.parametrize(
    ("user", "cluster", "sentence"),
    [
        ({"exec": {"command": "no-such-login", "apiVersion": "v1"}}, {}, "No such file or directory: 'no-such-login'"),
        ({"exec": {"command": "false", "apiVersion": "v1"}}, {}, "exec: process returned 1"),
        ({"exec": {"command": "true", "apiVersion": "v1"}}, {}, "exec: failed to decode process output"),
        ({"tokenFile": "absent"}, {}, "No such file or directory"),
        ({}, {"server": None}, "can't be used"),
        ({}, {"server": "https://x", "certificate-authority": "absent.pem"}, "File does not exist"),
        ({}, {"server": "https://x", "certificate-authority-data": "eA=="}, "can't be used"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(loaded, user, cluster, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        loaded(user, cluster)
    assert "\n" not in str(error.value)


def test_a_refused_log_in_says_why(loaded, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="process returned 3. no such account"):
        loaded({"exec": {"command": credential(tmp_path, {}, 3), "apiVersion": "v1"}})


def test_what_is_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="no cluster is configured: set KUBECONFIG"):
        load()
    for text in ("[1, 2", "- a", "clusters: [{cluster: {}}]", ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"the kubeconfig {file} can't be used") as error:
            load()
        assert "\n" not in str(error.value)
    write(file, contexts=[{"name": "one", "context": {"cluster": "gone", "user": "u"}}])
    with pytest.raises(ConfigError, match="Expected object with name gone"):
        load()


def test_a_client_certificate_needs_its_own_key(loaded) -> None:
    one, other = (certificates.make(["x"], datetime.now(UTC)) for _ in range(2))

    def data(text: bytes) -> str:
        return base64.b64encode(text).decode()

    https = {"server": "https://x", "certificate-authority-data": data(one.authorities)}
    found = loaded({"client-certificate-data": data(one.certificate), "client-key-data": data(one.key)}, https)
    assert found.tls is not None and found.tls.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ConfigError, match="can't be used .*KEY_VALUES_MISMATCH"):
        loaded({"client-certificate-data": data(one.certificate), "client-key-data": data(other.key)}, https)
    open_to_all = loaded({}, {"server": "https://x", "insecure-skip-tls-verify": True})
    assert open_to_all.tls is not None and open_to_all.tls.verify_mode is ssl.CERT_NONE


def test_the_kubernetes_package_is_imported_when_a_cluster_is_asked_and_not_before() -> None:
    code = (
        "import sys; import qednano.steer.cluster, qednano.steer.mirror, qednano.cli; "
        "print([name for name in ('kubernetes', 'kopf', 'numpy', 'pyarrow', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
