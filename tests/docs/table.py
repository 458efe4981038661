"""How each command of the pages is tried. A command that is not here, and a line here that no page has, fail a test."""

from __future__ import annotations

CI = ".ci/run"
_RELEASE = (
    "tests/e2e/test_release.py::test_a_release_is_upgraded_rolled_back_removed_and_installed_again_and_loses_nothing"
)
_FETCHED = "tests/operator/test_cli_artifacts.py::test_reports_scores_and_rows_of_a_cluster_are_read_here"
_OWN_DATA = "tests/docs/test_own_data.py::test_a_file_of_problems_becomes_a_dataset_by_the_commands_of_the_page"
_STEERED = "tests/operator/test_cli.py::test_runs_of_a_cluster_are_shown_and_steered"
_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/$kind.qednano.dev"
_REWRITE = (
    "for kind in proofdatasets sftruns rlruns evalruns; do "
    "kubectl get $kind.qednano.dev --all-namespaces --output=json "
    "| kubectl annotate --overwrite --filename=- qednano.dev/stored=v1alpha2 "
    f"&& kubectl get --raw {_CRD} "
    """| sed 's/"storedVersions":\\[[^]]*\\]/"storedVersions":["v1alpha2"]/' """
    f"| kubectl replace --raw {_CRD}/status --filename=-; done"
)

HERE = {
    # Run as they are, in a folder with a few finished runs.
    ".venv/bin/qednano status",
    ".venv/bin/qednano data show tiny",
    ".venv/bin/qednano logs tiny-rl/trainer",
    ".venv/bin/qednano report",
    ".venv/bin/qednano compare tiny-eval",
    ".venv/bin/qednano init mine.yaml --goal tiny --yes",
    ".venv/bin/qednano validate mine.yaml",
    ".venv/bin/qednano validate examples/paper",
    ".venv/bin/qednano run examples/graders/tiny.yaml",
    "make help",
}

SERVING = {
    # Started, asked for their first page, and stopped.
    ".venv/bin/qednano view",
    "qednano view",
    "qednano view other-root my-artifact",
}

BY_TEST = {
    # Run by another test, or by CI itself.
    "make venv": CI,
    "make lint": CI,
    "make test": CI,
    "make e2e": CI,
    "make cluster": CI,  # a part of make e2e
    ".venv/bin/pytest tests/api tests/plan": CI,  # a part of make test
    ".venv/bin/qednano run examples/data-tiny": "tests/pipeline/test_data_tiny.py::"
    "test_each_stage_accounts_for_every_row_and_the_server_goes_with_the_run",
    "helm uninstall qednano --namespace qednano-system": _RELEASE,
    "kubectl qednano suspend tiny-rl --namespace ml": _STEERED,
    "kubectl qednano wait tiny-rl --for Suspended --timeout 600 --namespace ml": _STEERED,
    "kubectl qednano resume tiny-rl --namespace ml": _STEERED,
    _REWRITE: "tests/kube/test_stored_version.py::test_runs_of_an_old_version_are_read_in_both_and_move_to_the_next",
    "qednano validate mine.yaml": _OWN_DATA,
    "qednano run mine.yaml": _OWN_DATA,
    "qednano data show mine": _OWN_DATA,
    "qednano report mine": _OWN_DATA,
    "kubectl qednano view": _FETCHED,
    "kubectl qednano report tiny-eval --namespace ml": _FETCHED,
    "kubectl qednano compare tiny-eval:rl tiny-eval:sft --namespace ml": _FETCHED,
    "kubectl qednano data show tiny --namespace ml": _FETCHED,
    "kubectl -n qednano-system rollout status deploy/qednano": _RELEASE,  # helm's --wait
}

ELSEWHERE = {
    # What these need; here only their words are checked: a target of the Makefile, a module, its flags.
    "make demo": "a quarter of an hour; the same four runs are made smaller by tests/pipeline, and whole by make e2e",
    "make images REGISTRY=registry.example.org/team/ VARIANT=cuda PUSH=1": "a builder and a registry; tests/images "
    "hands the same to stand-ins of all builders",
    ".venv/bin/python -m qednano.training.export qed-runs/default/sftrun/tiny-sft-*": "checkpoints; what it "
    "calls is tested by tests/training/test_engine.py",
    "helm test qednano --namespace qednano-system": "minutes on a cluster with a kubelet",
    ".venv/bin/python -m bench.sft_throughput": "minutes of two cores alone",
    ".venv/bin/python -m bench.rl_logprobs": "20 GiB",
    ".venv/bin/python -m bench.gpu_sft": "one H200",
    ".venv/bin/python -m bench.gpu_rl": "one H200",
    ".venv/bin/python -m tools.observability.prometheus qed-runs": "Debian's package prometheus",
    ".venv/bin/python -m tools.observability.prometheus --cluster": "a cluster whose pods can be reached",
    ".venv/bin/python -m tools.observability.coverage http://127.0.0.1:PORT --minutes 60": "a Prometheus with data; "
    "what it calls is tested by tests/observability/test_coverage.py",
    ".venv/bin/python -m tools.observability.render http://127.0.0.1:PORT out": "a Prometheus with data",
}
