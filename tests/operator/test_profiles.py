"""Profiles of the administrator: chosen by name, merged, pinned, and refused where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from qednano_operator.decision import Defaults
from qednano_operator.settings import parse

from qednano.api.common import Images, Scheduling
from qednano.api.profile import Profile
from tests.operator.chart import CHART, only, operator_flags, render, run_helm
from tests.operator.harness import Cluster, OperatorProcess, unique
from tests.operator.simulation import Simulation
from tests.operator.test_manifests import pod_of

H100 = {
    "images": {"trainer": "admin/trainer:1"},
    "scheduling": {"nodeSelector": {"gpu": "h100"}, "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}]},
    "gpuHourPrice": "2.50",
}


def _with(profile: dict[str, Any], **spec: Any) -> Simulation:
    simulation = Simulation.of("SFTRun", profile="h100", **spec)
    simulation.defaults = Defaults(profiles={"h100": Profile.model_validate(profile)})
    return simulation


def test_a_run_with_a_profile_runs_as_both_say() -> None:
    simulation = _with(H100, scheduling={"nodeSelector": {"zone": "b"}})
    simulation.operator()
    pod = pod_of(list(simulation.decide().apply), "trainer")
    assert pod["nodeSelector"] == {"gpu": "h100", "zone": "b"}
    assert pod["containers"][0]["image"] == "admin/trainer:1"
    assert {"name": "NCCL_IB_HCA", "value": "mlx5"} in pod["containers"][0]["env"]


def test_what_run_and_profile_came_to_is_recorded_and_stays_when_the_profile_changes() -> None:
    simulation = _with(H100)
    simulation.settle(code=None)
    told = simulation.status["profile"]
    assert told["name"] == "h100" and told["digest"].startswith("sha256:")
    kept = json.loads(simulation.objects["ConfigMap", "tiny-config"]["data"]["profile.json"])
    assert kept["digest"] == told["digest"]
    assert kept["merged"]["scheduling"]["nodeSelector"] == {"gpu": "h100"}
    assert kept["merged"]["images"]["trainer"] == "admin/trainer:1"

    for after in ({"h100": Profile.model_validate({"images": {"trainer": "admin/trainer:2"}})}, {}):
        simulation.defaults = Defaults(profiles=after)
        simulation.end(next(pod for pod in simulation.pods() if pod["status"]["phase"] == "Running"), 75)
        simulation.settle(code=None)
        newest = max(name for kind, name in simulation.objects if kind == "Job")
        template = simulation.objects["Job", newest]["spec"]["template"]["spec"]
        assert template["containers"][0]["image"] == "admin/trainer:1"
        assert simulation.status["profile"] == told
    assert simulation.status["attempt"] == 3
    assert "FieldsIgnored" not in simulation.events


def test_the_jobs_configuration_is_the_run_as_it_was_written() -> None:
    simulation = _with(H100)
    simulation.settle(code=None)
    config = json.loads(simulation.objects["ConfigMap", "tiny-config"]["data"]["config.json"])
    assert config["spec"]["profile"] == "h100" and config["spec"]["scheduling"]["nodeSelector"] == {}


def test_an_unknown_profile_is_not_accepted_and_the_known_ones_are_named() -> None:
    simulation = _with(H100)
    simulation.run["spec"]["profile"] = "h200"
    simulation.operator()
    (accepted,) = [item for item in simulation.status["conditions"] if item["type"] == "Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "ProfileUnusable")
    assert simulation.status["message"] == "spec.profile is h200, but the profiles here are h100"
    simulation.defaults = Defaults()
    simulation.operator()
    assert simulation.status["message"] == "spec.profile is h200, but the administrator has defined none"
    simulation.run["spec"]["profile"] = ""
    simulation.settle()
    assert simulation.status["phase"] == "Succeeded"


def test_an_operator_with_a_wrong_file_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text("h100: {gpuHourPrice: 2.5}")
    with pytest.raises(SystemExit):
        parse([f"--profiles={file}"])
    assert "h100.gpuHourPrice: must be a decimal in quotes" in capsys.readouterr().err


VALUES = ("--set-json", f"profiles={json.dumps({'h100': H100})}")


def test_the_charts_profiles_are_what_the_operator_reads(tmp_path: Path) -> None:
    objects = render(*VALUES)
    (config,) = [item for item in only(objects, "ConfigMap") if item["metadata"]["name"] == "qed-qednano-profiles"]
    file = tmp_path / "profiles.yaml"
    file.write_text(config["data"]["profiles.yaml"])
    assert parse([f"--profiles={file}"]).defaults.profiles == {"h100": Profile.model_validate(H100)}
    assert "--profiles=/etc/qednano/profiles.yaml" in operator_flags(objects)
    (deployment,) = only(objects, "Deployment")
    pod = deployment["spec"]["template"]
    assert {"name": "profiles", "configMap": {"name": "qed-qednano-profiles"}} in pod["spec"]["volumes"]
    assert {"name": "profiles", "mountPath": "/etc/qednano", "readOnly": True} in pod["spec"]["containers"][0][
        "volumeMounts"
    ]
    (other,) = only(render("--set-json", f"profiles={json.dumps({'h200': H100})}"), "Deployment")
    mark = "qednano.dev/profiles"
    before, after = (item["spec"]["template"]["metadata"]["annotations"][mark] for item in (deployment, other))
    assert before != after, "a change of profiles starts the operator anew"


@pytest.mark.parametrize(
    "wrong", [{"gpuHourPrice": 2.5}, {"image": "x"}, {"scheduling": {"queue": "x"}}, {"images": {"actor": "x"}}]
)
def test_the_chart_refuses_wrong_profiles(wrong: dict[str, Any]) -> None:
    assert run_helm("template", "qed", CHART, "--set-json", f"profiles={json.dumps({'h100': wrong})}").returncode != 0


def test_the_charts_schema_knows_every_field_of_a_profile() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    profile = schema["properties"]["profiles"]["additionalProperties"]["properties"]

    def names(model: Any) -> set[str]:
        return {field.alias for field in model.model_fields.values()}

    assert set(profile) == names(Profile)
    assert set(profile["images"]["properties"]) == names(Images)
    assert set(profile["scheduling"]["properties"]) == names(Scheduling)


@pytest.mark.apiserver
def test_a_profile_on_a_real_api_server(own: Cluster, own_operator: OperatorProcess, tmp_path: Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(yaml.safe_dump({"h100": H100}))
    own_operator.flags = (*own_operator.flags, f"--profiles={file}")
    own_operator.start()
    name, lost = unique("sft"), unique("sft")
    own.create("SFTRun", lost, profile="h200")
    own.create("SFTRun", name, profile="h100")
    (pod,) = own.wait_pods(name, "trainer")
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
    digest = own.status("SFTRun", name)["profile"]["digest"]
    assert own.phase("SFTRun", lost, "Pending")["message"] == "spec.profile is h200, but the profiles here are h100"
    own_operator.stop()
    file.write_text(yaml.safe_dump({"h200": {**H100, "scheduling": {"nodeSelector": {"gpu": "h200"}}}}))
    own_operator.start()
    own.end(pod, 75)
    (again,) = own.wait_pods(name, "trainer", attempt=2)
    assert (
        again["spec"]["nodeSelector"] == {"gpu": "h100"} and own.status("SFTRun", name)["profile"]["digest"] == digest
    )
    (found,) = own.wait_pods(lost, "trainer")
    assert found["spec"]["nodeSelector"] == {"gpu": "h200"}
