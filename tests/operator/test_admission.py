"""The admission webhook: the API server asks the operator, and refuses what ``qednano validate`` would complain of."""

from __future__ import annotations

import base64
import copy
import json
import ssl
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from qednano_operator.admission import NotAReview, answer, judge
from qednano_operator.certificates import LIFE, RENEW, is_due, make
from qednano_operator.kube import Conflict
from qednano_operator.webhook import CONFIGURATION, PATH, Webhook, WebhookSettings

from qednano.api.load import InvalidManifest, load_documents
from tests.kube import apiserver
from tests.kube.apiserver import ApiServer
from tests.operator import chart
from tests.operator.fixtures import CRDS
from tests.operator.harness import NODE, Cluster, OperatorProcess, eventually, free_port, manifest, unique
from tools.cluster.api_client import Refused

HOOK = ("--set", "webhook.enabled=true,rbac.aggregate=false")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def review(run: Any, before: Any = None) -> dict[str, Any]:
    """What the API server sends."""
    request = {"uid": "u1", "operation": "UPDATE" if before else "CREATE", "object": run, "oldObject": before}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def started(kind: str, **spec: Any) -> dict[str, Any]:
    """A run that has started."""
    return {**manifest(kind, "tiny", "ns", **spec), "status": {"startTime": "2026-01-01T00:00:00Z"}}


WRONG = [
    ("SFTRun", {"trainer": {"maxSteps": 10, "epochs": 1}}),
    ("SFTRun", {"trainer": {"maxSteps": 0}}),
    ("SFTRun", {"dataset": {"proofDataset": {"name": "Data"}}}),
    ("RLRun", {"grader": {}}),
    ("EvalRun", {"modle": {}}),
    ("ProofDataset", {"seed": "seven"}),
]


@pytest.mark.parametrize(("kind", "spec"), WRONG)
def test_it_says_what_validate_says(kind: str, spec: dict[str, Any], tmp_path: Path) -> None:
    run = manifest(kind, "tiny", "ns", **spec)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    with pytest.raises(InvalidManifest) as error:
        load_documents([file])
    response = answer(review(run), {})["response"]
    assert response["uid"] == "u1" and not response["allowed"] and response["status"]["code"] == 422
    for mistake in error.value.mistakes:
        assert mistake.message in response["status"]["message"]


@pytest.mark.parametrize("kind", ["ProofDataset", "SFTRun", "RLRun", "EvalRun"])
def test_what_is_right_is_allowed(kind: str) -> None:
    assert answer(review(manifest(kind, "tiny", "ns")), {})["response"] == {"uid": "u1", "allowed": True}


def test_a_change_after_the_start_is_named_with_both_values_and_a_remedy() -> None:
    before = started("SFTRun")
    after = copy.deepcopy(before)
    after["spec"]["trainer"]["maxSteps"] = 20
    after["spec"]["suspend"] = True
    assert judge(after, before, {})[0] == [
        "spec.trainer.maxSteps can't change from 10 to 20 once the run has started (only spec.suspend, spec.cancel, "
        "spec.restart, spec.limits, spec.ttlSecondsAfterFinished, spec.artifacts can); make a run with another name"
    ]
    after["spec"]["trainer"]["maxSteps"] = 10
    assert judge(after, before, {}) == ([], [])
    del before["status"]
    after["spec"]["trainer"]["maxSteps"] = 20
    assert judge(after, before, {}) == ([], [])


def test_servers_of_a_started_run_may_change_in_number_only() -> None:
    before = started("RLRun", rollout={"replicas": 1})
    after = copy.deepcopy(before)
    after["spec"]["rollout"]["replicas"] = 4
    assert judge(after, before, {}) == ([], [])
    after["spec"]["rollout"]["maxConcurrent"] = 8
    ((said,), _) = judge(after, before, {})
    assert said.startswith("spec.rollout.maxConcurrent can't change from 256 to 8 once")


def test_a_run_that_goes_or_whose_spec_stays_is_never_held_up() -> None:
    before = started("SFTRun")
    before["spec"]["nonsense"] = 1  # of an older operator, say
    after = copy.deepcopy(before)
    after["metadata"]["finalizers"] = []
    assert judge(after, before, {}) == ([], [])
    after["spec"]["more"] = 2
    after["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert judge(after, before, {}) == ([], [])


def test_a_run_can_not_start_from_itself_and_an_unknown_profile_is_a_warning() -> None:
    mistakes, _ = judge(manifest("SFTRun", "tiny", "ns", model={"sftRun": {"name": "tiny"}}), None, {})
    assert mistakes == ["spec.model.sftRun refers to the run itself; name another"]
    response = answer(review(manifest("SFTRun", "tiny", "ns", profile="h100")), {})["response"]
    assert response["allowed"] and "spec.profile is h100" in response["warnings"][0]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(spec=_JSON, kind=st.sampled_from(["SFTRun", "RLRun", "ProofDataset", "EvalRun"]))
def test_no_spec_is_too_strange_for_an_answer(spec: Any, kind: str) -> None:
    run = {**manifest(kind, "tiny", "ns"), "spec": spec}
    assert answer(review(run), {})["response"]["allowed"] is False
    assert "allowed" in answer(review(run, started(kind)), {})["response"]


@given(body=_JSON)
def test_what_is_no_review_is_refused(body: Any) -> None:
    with pytest.raises(NotAReview):
        answer(body, {})


def test_a_certificate_is_renewed_before_its_end_and_its_authority_trusted_beyond() -> None:
    names = ("localhost", "127.0.0.1")
    first = make(names, NOW)
    assert not is_due(first, names, NOW + LIFE - RENEW)
    later = NOW + LIFE - RENEW + timedelta(hours=1)
    assert is_due(first, names, later) and is_due(first, ("other.svc",), NOW)
    second = make(names, later, first)
    assert first.authorities in second.authorities and not is_due(second, names, later)
    third = make(names, NOW + LIFE + timedelta(days=1), second)
    assert first.authorities not in third.authorities and third.authorities.count(b"BEGIN") == 2


class _Api:
    """Secret and configuration as an API server keeps them; it refuses writes that follow from an old version."""

    def __init__(self) -> None:
        hooks = [{"name": "runs.qednano.dev", "clientConfig": {"url": "https://x"}}]
        self.objects: dict[str, dict[str, Any]] = {
            "Secret": {"metadata": {"name": "hook", "resourceVersion": "1"}},
            CONFIGURATION: {"metadata": {"name": "hook", "resourceVersion": "1"}, "webhooks": hooks},
        }
        self.writes = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return copy.deepcopy(self.objects[kind])

    async def replace(self, obj: dict[str, Any]) -> None:
        there = self.objects[obj["kind"]]["metadata"]["resourceVersion"]
        if obj["metadata"]["resourceVersion"] != there:
            raise Conflict("the object has been modified")
        self.writes += 1
        self.objects[obj["kind"]] = copy.deepcopy(obj)
        self.objects[obj["kind"]]["metadata"]["resourceVersion"] = str(int(there) + 1)

    def trusted(self) -> bytes:
        return base64.b64decode(self.objects[CONFIGURATION]["webhooks"][0]["clientConfig"]["caBundle"])


def _ask(port: int, authorities: bytes, body: Any) -> Any:
    context = ssl.create_default_context(cadata=authorities.decode())
    request = urllib.request.Request(f"https://localhost:{port}{PATH}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5, context=context) as response:
        return json.load(response)


async def test_replicas_share_a_certificate_and_renew_it_while_they_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr("qednano_operator.webhook._SETTLE", 0.0)
    api, now = _Api(), [datetime.now(UTC) - LIFE + RENEW / 2]  # so the first certificate ends within half of RENEW
    hooks = []
    for port in (free_port(), free_port()):
        settings = WebhookSettings(port, "hook", "system", ("localhost",))
        hooks.append((port, Webhook(api, settings, {}, lambda: now[0])))  # type: ignore[arg-type]
    await asyncio.gather(*(hook.renew() for _, hook in hooks))
    runners = [await hook.serve("127.0.0.1") for _, hook in hooks]
    body, before = review(manifest("SFTRun", "tiny", "ns")), api.trusted()
    try:
        for port, _ in hooks:
            assert (await asyncio.to_thread(_ask, port, before, body))["response"]["allowed"]
        writes = api.writes
        await asyncio.gather(*(hook.renew() for _, hook in hooks))
        assert api.writes == writes == 2  # nothing is due: nothing is written
        now[0] = datetime.now(UTC)
        await hooks[0][1].renew()
        after = api.trusted()
        assert after != before
        for port, _ in hooks:  # the second still shows the old certificate
            assert (await asyncio.to_thread(_ask, port, after, body))["response"]["allowed"]
    finally:
        for runner in runners:
            await runner.cleanup()


def test_it_is_off_by_default_and_asked_about_our_kinds_only() -> None:
    assert not chart.only(chart.render(), CONFIGURATION, "Secret")
    assert not any(flag.startswith("--webhook") for flag in chart.operator_flags(chart.render()))
    (config,) = chart.only(chart.render(*HOOK, "--kube-version", "1.33.0"), CONFIGURATION)
    (hook,) = config["webhooks"]
    assert hook["failurePolicy"] == "Fail" and hook["sideEffects"] == "None" and "caBundle" not in hook["clientConfig"]
    (rule,) = hook["rules"]
    assert rule["apiGroups"] == ["qednano.dev"] and rule["operations"] == ["CREATE", "UPDATE"]
    assert sorted(rule["resources"]) == ["evalruns", "proofdatasets", "rlruns", "sftruns"]
    assert "namespaceSelector" not in hook and hook["matchConditions"]
    (some,) = chart.only(chart.render(*HOOK, "--set", "operator.namespaces={team-a}"), CONFIGURATION)
    assert some["webhooks"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a"]


def test_its_rights_are_one_secret_and_one_configuration_by_name() -> None:
    rules = [
        rule
        for role in chart.only(chart.render(*HOOK), "Role", "ClusterRole")
        for rule in role["rules"]
        if {"secrets", "validatingwebhookconfigurations"} & set(rule["resources"])
    ]
    assert len(rules) == 2
    for rule in rules:
        assert rule["resourceNames"] == ["qed-qednano-webhook"] and rule["verbs"] == ["get", "update"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server that knows no CEL, as all did before 1.25: what it refuses, the webhook has refused."""
    server = apiserver.start(tmp_path_factory.mktemp("asked"), controllers=True)
    try:
        server.install_crds(*(_without_rules(yaml.safe_load(path.read_text())) for path in CRDS))
        server.client.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        server.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": chart.SYSTEM}})
        yield server
    finally:
        server.plane.stop()


def _without_rules(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_rules(child) for key, child in node.items() if key != "x-kubernetes-validations"}
    return [_without_rules(child) for child in node] if isinstance(node, list) else node


@pytest.mark.apiserver
def test_the_api_server_asks_refuses_and_fails_closed_for_our_kinds_only(asked: ApiServer, tmp_path: Path) -> None:
    objects = chart.render(*HOOK, "--kube-version", "1.20.2")
    port = free_port()
    (config,) = copy.deepcopy(chart.only(objects, CONFIGURATION))
    config["webhooks"][0]["clientConfig"] = {"url": f"https://localhost:{port}{PATH}"}  # no Service reaches a test
    kinds = ("ServiceAccount", "Secret", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    chart.install(asked, [*chart.only(objects, *kinds), config])
    given_flags = [flag for flag in chart.operator_flags(objects) if not flag.startswith("--webhook-")]
    flags = (
        *given_flags,
        f"--webhook-port={port}",
        "--webhook-name=qed-qednano-webhook",
        "--webhook-hosts=localhost",
    )
    account = chart.kubeconfig_of(asked, "qed-qednano", tmp_path / "kubeconfig")
    operator = OperatorProcess(account, tmp_path / "operator.log", flags).start()
    cluster = Cluster(asked, asked.new_namespace())
    try:
        _refuses(cluster)
    finally:
        operator.end()
    with pytest.raises(Refused, match=r"failed calling webhook .runs\.qednano\.dev."):
        cluster.create("SFTRun", unique("sft"))
    path = f"/api/v1/namespaces/{cluster.namespace}/configmaps"
    cluster.server.client.request("POST", path, {"metadata": {"name": "other"}})
    cluster.delete("SFTRun", "sft")  # a deletion asks nobody
    before = _bundle(asked)
    # Another name to be called by: the certificate is replaced, and the API server must trust the new one.
    renamed = (*flags[:-1], "--webhook-hosts=localhost,127.0.0.1")
    again = OperatorProcess(account, tmp_path / "again.log", renamed).start()
    try:
        eventually(lambda: _bundle(asked) != before, what="the new authority is announced")
        _taken(cluster, "later")
    finally:
        again.end()
        asked.kubectl("delete", CONFIGURATION, "qed-qednano-webhook")


def _bundle(server: ApiServer) -> str:
    (hook,) = server.get(CONFIGURATION, "qed-qednano-webhook")["webhooks"]
    return str(hook["clientConfig"].get("caBundle") or "")


def _taken(cluster: Cluster, name: str) -> None:
    """Make a run, once the API server has seen the webhook's authority."""

    def taken() -> bool:
        try:
            cluster.create("SFTRun", name)
        except Refused as refused:
            assert "failed calling webhook" in str(refused)
            return False
        return True

    eventually(taken, what="a valid run is taken")


def _refuses(cluster: Cluster) -> None:
    eventually(lambda: _bundle(cluster.server), what="the operator adds its authority")
    _taken(cluster, "sft")
    with pytest.raises(Refused, match="warmupSteps is 11; it must not exceed maxSteps") as error:
        cluster.create("SFTRun", "wrong", trainer={"maxSteps": 10, "warmupSteps": 11, "precision": "fp32"})
    assert 'admission webhook "runs.qednano.dev" denied the request' in str(error.value)
    cluster.phase("SFTRun", "sft", "Starting")
    with pytest.raises(Refused, match=r"spec\.trainer\.maxSteps can't change from 10 to 20 once the run has started"):
        cluster.patch("SFTRun", "sft", {"trainer": {"maxSteps": 20}})
    cluster.patch("SFTRun", "sft", {"restart": {"maxRestarts": 1}})
