"""YAML and Python that the pages show, and the examples: valid as they stand."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.simulated import Judge, Solver, World
from qednano.api import API_VERSION, KINDS
from qednano.api.language import LanguageModel
from qednano.api.load import load_documents
from qednano.evals.calls import Journal
from qednano.evals.lanes import Lanes
from qednano.evals.tree import JUDGE, SOLVER, Asked, Bench, Node, Sample
from qednano.llm.chat import ChatParams
from tests.docs.pages import REPOSITORY, Block, blocks
from tests.evals.killing import PROBLEMS
from tests.kube.apiserver import ApiServer
from tests.operator.chart import run_helm
from tests.operator.harness import manifest

SNIPPETS = [block for block in blocks("yaml", "yml") if not block.page.startswith("docs/reference/")]
FOREIGN = ("kueue.x-k8s.io", "jobset.x-k8s.io")
EXAMPLES = sorted((REPOSITORY / "examples").glob("**/*.yaml"))


def merged(base: Any, change: Any) -> Any:
    """The change laid over the base, mappings field by field."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    return {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}


def problems(document: dict[str, Any], folder: Path) -> str:
    """Why the document is not valid; empty when it is."""
    file = folder / "snippet.yaml"
    file.write_text(yaml.safe_dump(document))
    try:
        load_documents([file])
    except Exception as error:
        return str(error)
    return ""


def kinds_with(fields: set[str]) -> list[str]:
    """The kinds whose spec has all of the fields."""
    found = []
    for name, kind in KINDS.items():
        known = {field.alias or field_name for field_name, field in kind.spec_type().model_fields.items()}
        if fields <= known:
            found.append(name)
    return found


@pytest.mark.parametrize("block", SNIPPETS, ids=lambda block: block.where)
def test_yaml_of_a_page_is_valid(block: Block, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for document in yaml.safe_load_all(block.text):
        if isinstance(document, list):
            assert all("job_name" in item for item in document), "a list that is no scrape configuration"
        elif document.get("apiVersion") == API_VERSION:
            assert not problems(document, tmp_path)
        elif str(document.get("apiVersion", "")).partition("/")[0] in FOREIGN or set(document) == {"integrations"}:
            assert document  # its kinds are not on the control plane of these tests
        elif "apiVersion" in document:
            server: ApiServer = request.getfixturevalue("qed_server")
            document["metadata"].pop("namespace", None)
            if document["kind"] == "HorizontalPodAutoscaler":
                document["apiVersion"] = server.autoscaling
            server.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(document))
        elif set(document) == {"teacher"}:
            LanguageModel.model_validate(document["teacher"])
        elif block.page == "docs/cluster.md" or "values" in block.text.splitlines()[0]:
            values = tmp_path / "values.yaml"
            values.write_text(block.text)
            rendered = run_helm("template", "x", REPOSITORY / "charts/qednano", "-f", values)
            assert rendered.returncode == 0, rendered.stderr
        else:
            fragment = document.get("spec", document)
            kinds = kinds_with(set(fragment))
            assert kinds, f"no kind has the fields {sorted(fragment)}"
            told = [
                problems(
                    {
                        **(base := manifest(kind, "snippet", "default")),
                        "spec": merged(base["spec"], _alone(kind, fragment, base)),
                    },
                    tmp_path,
                )
                for kind in kinds
            ]
            assert "" in told, "\n".join(told)


def _alone(kind: str, fragment: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The fragment, where it takes the place of what the smallest spec has instead of standing beside it."""
    for name in ("grader", "dataset", "model", "benchmark"):
        if name in fragment:
            base["spec"].pop(name, None)
    if "epochs" in fragment.get("trainer", {}):
        base["spec"]["trainer"].pop("maxSteps", None)
    return fragment


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.relative_to(REPOSITORY).as_posix())
def test_an_example_is_valid(file: Path) -> None:
    assert load_documents([file])


@pytest.mark.parametrize("block", list(blocks("python")), ids=lambda block: block.where)
def test_python_of_a_page_works(block: Block, tmp_path: Path) -> None:
    code = compile(block.text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:  # talks to a server: its imports and calls are checked instead
        for node in ast.walk(ast.parse(f"async def page():\n    pass\n{_imports(block.text)}")):
            if isinstance(node, ast.ImportFrom):
                module = __import__(str(node.module), fromlist=[alias.name for alias in node.names])
                assert all(hasattr(module, alias.name) for alias in node.names)
        return
    names: dict[str, Any] = {}
    exec(code, names)
    if "Keyword" in names:
        grader = names["Keyword"]("therefore")
        assert asyncio.run(grader.grade(None, "and therefore it holds")).score == 7
        assert asyncio.run(grader.grade(None, "it holds")).score == 0
    if "BetterOf" in names:
        asyncio.run(_better_of(names["BetterOf"](), tmp_path))


async def _better_of(scaffold: Any, folder: Path) -> None:
    """The page's scaffold asks a simulated model twice and a judge once, and takes one of the proofs."""
    judge, solver = (Asked(model, model.name, ChatParams(1000)) for model in (Judge(World()), Solver(World())))
    with Journal(folder / "calls.jsonl") as journal:
        sample = Sample(Bench({SOLVER: solver, JUDGE: judge}, Lanes(2), journal), "model", PROBLEMS[0], 0)
        solution = await scaffold.solve(Node(sample))
    assert solution.proof.path in ("proof-0", "proof-1") and solution.proof.text
    paths = [json.loads(line)["path"] for line in (folder / "calls.jsonl").read_text().splitlines()]
    assert sorted(paths) == ["better", "proof-0", "proof-1"]


def _imports(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("from "))
