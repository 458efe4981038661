"""`qednano eval`: evaluate a model, or a grader, without writing a manifest by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qednano.commands.options import ROOT, Cluster, Context, Format, Namespace, Output, Root, place_of, print_json

if TYPE_CHECKING:
    from qednano.local.session import RunView


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="hf://OWNER/NAME, a folder, URL#NAME for an endpoint, or a run: tiny-rl, sft/tiny-sft, tiny-rl@best, "
            "tiny-rl@120. Without a model the grader is measured.",
        ),
    ] = "",
    on: Annotated[
        str,
        typer.Option("--on", help="imo-proofbench, imo-answerbench, proofbench, a file, hub:ID or DATASET/SPLIT."),
    ] = "",
    grader: Annotated[
        str, typer.Option("--grader", help="rubric, final-answer, tiny-divisibility, or MODULE:OBJECT of your own.")
    ] = "",
    grader_model: Annotated[str, typer.Option("--grader-model", help="Who grades; written as MODEL is.")] = "",
    votes: Annotated[int, typer.Option("--votes", min=1, help="Gradings of each proof.")] = 1,
    baseline: Annotated[
        list[str] | None, typer.Option("--baseline", help="NAME=MODEL to compare with; may be given again.")
    ] = None,
    scaffold: Annotated[
        str, typer.Option("--scaffold", help="SinglePass, ReasoningCache, VerifyRefine, RSA, Nomos, SelfCheck, …")
    ] = "SinglePass",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of each problem.")] = 1,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The first so many problems; 0 takes all.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 16384,
    window: Annotated[
        int, typer.Option("--window", min=0, help="Prompt and answer together; 0 leaves the prompt 4,096 tokens.")
    ] = 0,
    temperature: Annotated[str, typer.Option("--temperature", help="Of sampling.")] = "1.0",
    model_key: Annotated[
        str, typer.Option("--model-key", help="SECRET/KEY of the model's endpoint; openai/api-key: $OPENAI_API_KEY.")
    ] = "",
    grader_key: Annotated[str, typer.Option("--grader-key", help="The same for the grader's endpoint.")] = "",
    gpus: Annotated[int, typer.Option("--gpus", min=0, max=16, help="GPUs that share the model; 0 uses CPUs.")] = 0,
    servers: Annotated[int, typer.Option("--servers", min=1, help="vLLM servers of the model.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of sampling.")] = 0,
    name: Annotated[str, typer.Option("--name", help="Of the EvalRun; by default made of model and benchmark.")] = "",
    show: Annotated[bool, typer.Option("--show-manifest", help="Print the EvalRun, run nothing.")] = False,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Evaluate a model on a benchmark, or a grader on scored proofs.

    It makes an EvalRun and runs it; a grader is measured on proofs that people scored. The manifest is kept under
    the root; asking again goes on where it stopped, or shows what is there.
    """
    import yaml

    from qednano.errors import UsageError
    from qednano.steer.evaluation import Asked, manifest

    if not on:
        raise UsageError(
            "say by --on what to evaluate on, as in --on imo-answerbench; qednano eval --help has the rest"
        )

    def kind_of_run(called: str) -> str:
        found = [run for run in place_of(root, cluster, namespace, context).runs() if run.name == called]
        return next((run.kind for run in reversed(found) if run.kind in ("RLRun", "SFTRun")), "")

    asked = Asked(
        model=model, benchmark=on, grader=grader, kind_of_run=kind_of_run, name=name, baselines=baseline or (),
        scaffold=scaffold, samples=samples, limit=limit, max_tokens=max_tokens, context=window,
        temperature=temperature, grader_model=grader_model, votes=votes, model_key=model_key, grader_key=grader_key,
        gpus=gpus, servers=servers, seed=seed,
    )  # fmt: skip
    document = manifest(asked)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    if show:
        print(text, end="")
    elif cluster:
        _on_cluster(text, document["metadata"]["name"], root, namespace, context, output)
    else:
        _here(text, document["metadata"]["name"], root, output)


def _kept(text: str, name: str, root: Path) -> Path:
    from qednano.artifacts import write_atomic
    from qednano.errors import UsageError

    path = root / "evaluations" / f"{name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise UsageError(f"{path} can't be written ({error.strerror}); give another --root") from None
    return path


def _on_cluster(text: str, name: str, root: Path, namespace: str, context: str, output: Output) -> None:
    import tempfile

    from qednano.api.load import load_documents
    from qednano.steer.cluster import ClusterRuns

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(text)
        documents = load_documents([file])
    said = ClusterRuns(namespace, context).apply(documents)
    if output is Output.JSON:
        print_json([{"run": run.label, "namespace": run.namespace} for run in said])
    else:
        print(f"applied EvalRun/{name} in namespace {said[0].namespace}; next: qednano wait evr/{name} --cluster")


def _here(text: str, name: str, root: Path, output: Output) -> None:
    from qednano.api.load import load_documents
    from qednano.local.display import display_on
    from qednano.local.session import Session
    from qednano.steer.local import remember

    path = _kept(text, name, root)
    display = display_on(sys.stdout if output is Output.TEXT else sys.stderr)
    try:
        session = Session(load_documents([path]), root, display)
        remember(root, [path])
        (view, *_) = session.run()
    finally:
        display.close()
    if session.interrupt.count:
        print(f"Stopped. To go on: qednano run {path} --root {root}", file=sys.stderr)
        raise typer.Exit(128 + session.interrupt.signal)
    if not view.in_order:
        raise typer.Exit(1)
    _tell(view, output)


def _tell(view: RunView, output: Output) -> None:
    from qednano.local.display import aligned
    from qednano.local.results import comparison_rows, grader_rows_of, report_of, score_rows, scores_of

    assert view.folder is not None  # it has succeeded
    report = report_of(view)
    if output is Output.JSON:
        print_json(
            {
                "run": view.label,
                "artifact": str(view.folder.artifact),
                "report": str(report) if report else None,
                **_numbers(view.folder.artifact),
            }
        )
        return
    for rows in [*map(score_rows, scores_of([view]).values()), *grader_rows_of([view]).values()]:
        print(f"\n{aligned(rows)}")
    if rows := comparison_rows(view.folder):
        print(f"\n{aligned(rows)}")
    print(f"\nproofs and marks: {view.folder.artifact}  (qednano view {view.folder.path})")
    if report:
        print(f"report: {report}")


def _numbers(artifact: Path) -> dict[str, Any]:
    import json

    for file, key in (("scores.json", "scores"), ("grading.json", "grading")):
        if (artifact / file).is_file():
            return {key: json.loads((artifact / file).read_bytes())}
    return {}
