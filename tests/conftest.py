"""Fixtures that every folder of tests may use."""

pytest_plugins = ["tests.kube.apiserver", "tests.operator.fixtures", "tests.browser"]
