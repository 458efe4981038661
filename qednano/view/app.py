"""The viewer's pages. Each is a whole page at an address of its own; htmx takes the piece of it that changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from qednano.artifacts import read_manifest
from qednano.errors import QedError
from qednano.evals import grader_report
from qednano.evals.continuous import chosen, curves
from qednano.evals.human import HumanGrade, grades_path, proof_digest, read_grades, remove_grade, save_grade
from qednano.evals.human_export import export_rows
from qednano.evals.reader import EvaluationReader, tree
from qednano.pages.charts import curve_chart, difference_chart, pass_chart
from qednano.pages.details import details_of
from qednano.pages.prose import part, part_of, parts
from qednano.pages.templates import environment
from qednano.plan.evaluations import evaluation_name
from qednano.view import tables
from qednano.view.catalog import Catalog, Run, matching, ordered
from qednano.view.security import TOKEN, OwnPagesOnly, form_of

PART_CHARACTERS = 16_000
_HERE = Path(__file__).parent
_PAGES = _HERE.parent / "pages"
_THEMES = ("light", "dark")


def _version(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Viewer:
    """All pages over one catalog of runs."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.templates = environment(_HERE / "templates")
        own = [*(_HERE / "static").glob("*.*"), *_PAGES.glob("*.css"), *_PAGES.glob("*.js")]
        self.templates.globals |= {"version": _version(own), "address": address, "token": TOKEN}

    def page(self, request: Request, name: str, **values: Any) -> HTMLResponse:
        theme = request.cookies.get("theme", "")
        text = self.templates.get_template(name).render(
            theme=theme if theme in _THEMES else "", asked=dict(request.query_params), path=request.url.path, **values
        )
        return HTMLResponse(text)

    def warm(self) -> None:
        """Do once what the first page would wait for: compile templates, load what pyarrow loads when it is used."""
        for name in self.templates.list_templates(filter_func=lambda name: name.endswith(".html.j2")):
            self.templates.get_template(name)
        import pyarrow as pa
        import pyarrow.dataset

        pa.scalar(0.0)
        self.catalog.runs()

    # -- runs -------------------------------------------------------------------------------------------------------

    def runs(self, request: Request) -> Response:
        """The table of runs."""
        asked = request.query_params
        runs = self.catalog.runs()
        order = asked.get("order", "-started")
        return self.page(
            request,
            "runs.html.j2",
            runs=ordered(matching(runs, asked.get("q", ""), asked.get("kind", ""), asked.get("phase", "")), order),
            total=len(runs),
            kinds=sorted({run.kind for run in runs}),
            phases=sorted({run.phase for run in runs if run.phase}),
            order=order,
            places=[*self.catalog.roots, *self.catalog.artifacts],
        )

    def run(self, request: Request) -> Response:
        """One run: of an EvalRun the scores and its problems, of another what its manifest says."""
        run = self._run(request)
        if not run.readable:
            manifest = read_manifest(run.artifact) if run.artifact else None
            if run.artifact and (run.artifact / grader_report.FILE).is_file():
                numbers = grader_report.numbers(run.artifact)
                return self.page(request, "grader_evaluation.html.j2", run=run, **grader_report.shown(numbers))
            found = curves(run.folder)
            told = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) if manifest else ""
            return self.page(
                request,
                "other.html.j2",
                run=run,
                manifest=manifest,
                told=told,
                found=found,
                chart=curve_chart(found),
                best=chosen(run.folder),
                links=self._evaluations_of(run, found),
            )
        reader, asked = self.catalog.reader(run), request.query_params
        wanted = tables.Wanted(
            asked.get("q", "").strip()[:200],
            asked.get("category", ""),
            asked.get("outcome", ""),
            asked.get("order", "problem"),
            _whole(asked.get("page"), 0),
        )
        lines, count = tables.problem_lines(reader, wanted)
        categories = tables.by_category(reader)
        models = list(reader.scores.get("models", []))
        return self.page(
            request,
            "run.html.j2",
            run=run,
            reader=reader,
            about=_about(reader),
            models=models,
            names=reader.samples.models,
            colours=_colours(reader),
            comparisons=reader.scores.get("comparisons", {}),
            chart=pass_chart(models),
            categories=categories,
            lines=lines,
            count=count,
            wanted=wanted,
            pages=max(1, -(-count // tables.PAGE_ROWS)),
            grades=len(read_grades(grades_path(reader.folder))),
        )

    def _evaluations_of(self, run: Run, found: Mapping[str, list[dict[str, Any]]]) -> dict[tuple[str, int], str]:
        """Addresses of the EvalRuns that gave a training run's scores, where they are here, by evaluation and step."""
        known = {(item.namespace, item.name): item.id for item in self.catalog.runs() if item.kind == "EvalRun"}
        named = {
            (name, point["step"]): evaluation_name(run.name, name, point["step"])
            for name, points in found.items()
            for point in points
        }
        return {
            key: f"/runs/{quote(known[run.namespace, name])}"
            for key, name in named.items()
            if (run.namespace, name) in known
        }

    def problem(self, request: Request) -> Response:
        """One problem with its marking scheme and everybody's scores."""
        run, reader = self._evaluation(request)
        identity = request.query_params.get("id", "")
        if identity not in reader.samples.problems:
            raise HTTPException(404, f"{run.id} has no problem {identity!r}")
        place = reader.samples.problems.index(identity)
        return self.page(
            request,
            "problem.html.j2",
            run=run,
            problem=reader.problem(identity),
            identity=identity,
            category=reader.category(identity),
            colours=_colours(reader),
            line=tables._line(reader, place),
            scheme=_scheme(reader.problem(identity)),
            before=reader.samples.problems[place - 1] if place else None,
            after=reader.samples.problems[place + 1] if place + 1 < len(reader.samples.problems) else None,
        )

    # -- one sample ---------------------------------------------------------------------------------------------------

    def sample(self, request: Request) -> Response:
        """One proof beside its marks, with its calls, its thinking and the form for a person's grade."""
        run, reader = self._evaluation(request)
        asked = request.query_params
        model, identity, index = asked.get("model", ""), asked.get("problem", ""), _whole(asked.get("index"), 0)
        row = reader.samples.row(model, identity, index)
        if row is None:
            raise HTTPException(404, f"{run.id} has no sample {index} of {model!r} on problem {identity!r}")
        sample = reader.sample(row)
        proof = sample["proof"] or ""
        calls = reader.calls(model, identity, index)
        opened = _whole(asked.get("call"), -1)
        call = reader.call(model, identity, index, opened) if opened >= 0 else None
        problem = reader.problem(identity)
        grades = [
            grade
            for grade in read_grades(grades_path(reader.folder))
            if (grade.model, grade.problem, grade.index) == (model, identity, index)
        ]
        return self.page(
            request,
            "sample.html.j2",
            run=run,
            sample=sample,
            problem=problem,
            category=reader.category(identity),
            scheme=_scheme(problem),
            details=details_of(sample["details"]),
            proof=_paged(proof, asked.get("proof")),
            thinking=_paged(sample["reasoning"] or "", asked.get("thinking"), asked.get("find", "")),
            raw=_paged(sample["text"] or "", asked.get("raw")),
            tree=[(depth, path, item) for depth, path, item in tree(calls)],
            calls=calls,
            call=call,
            call_text=_paged(call["text"] or "", asked.get("call_text")) if call else None,
            call_thinking=_paged(call["reasoning"] or "", asked.get("call_thinking")) if call else None,
            messages=_messages(call),
            grades=grades,
            stale={grade.grader for grade in grades if grade.proof_sha256 != proof_digest(proof)},
            here={"model": model, "problem": identity, "index": index},
            near=_near(reader, row),
            colours=_colours(reader),
            grader=request.cookies.get("grader", ""),
        )

    async def grade(self, request: Request) -> Response:
        """Keep, change or take back a person's grade of one sample."""
        run, reader = self._evaluation(request)
        form = await form_of(request)
        if form is None:
            raise HTTPException(403, "this form is not from a page of this viewer; load the page again")
        model, identity = form.get("model", ""), form.get("problem", "")
        index = _whole(form.get("index"), 0)
        row = reader.samples.row(model, identity, index)
        if row is None:
            raise HTTPException(404, f"{run.id} has no such sample")
        grader = form.get("grader", "").strip()
        path = grades_path(reader.folder)
        if form.get("remove"):
            remove_grade(path, (model, identity, index, grader))
        else:
            score = form.get("score", "")
            grade = HumanGrade(
                model,
                identity,
                index,
                int(score) if score.isdecimal() and score.isascii() and len(score) == 1 else -1,
                form.get("note", "").replace("\r\n", "\n").strip(),
                grader,
                datetime.now(UTC).isoformat(timespec="seconds"),
                proof_digest(reader.sample(row)["proof"] or ""),
            )
            save_grade(path, grade)
        target = address(f"/runs/{run.id}/sample", {"model": model, "problem": identity, "index": index})
        return RedirectResponse(f"{target}#grading", 303)

    def exported(self, request: Request) -> Response:
        """Human grades with problem and proof, a row a line, as a grader evaluation reads them."""
        run, reader = self._evaluation(request)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in export_rows(reader))
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in run.id)
        return PlainTextResponse(
            "".join(lines),
            media_type="application/jsonl",
            headers={"Content-Disposition": f'attachment; filename="{name}.grades.jsonl"'},
        )

    # -- two runs -----------------------------------------------------------------------------------------------------

    def compare(self, request: Request) -> Response:
        """Two models, of one run or of two, problem by problem."""
        asked = request.query_params
        options = [
            (f"{run.id}~{model}", run, model) for run in self.catalog.runs() if run.readable for model in run.models
        ]
        chosen = [self._side(asked.get(name, "")) for name in ("a", "b")]
        if None in chosen:
            return self.page(request, "compare.html.j2", options=options, sides=None)
        (_, first, _), (_, second, _) = chosen  # type: ignore[misc]
        lines = tables.pairs((first, chosen[0][2]), (second, chosen[1][2]))  # type: ignore[index]
        order, who, number = asked.get("order", "-difference"), asked.get("who", ""), _whole(asked.get("page"), 0)
        shown, count = tables.pair_page(lines, who, order, number)
        benchmarks = {str((reader.manifest.inputs.get("benchmark") or {}).get("digest")) for reader in (first, second)}
        return self.page(
            request,
            "compare.html.j2",
            options=options,
            sides=[(run, model) for run, _, model in chosen],  # type: ignore[misc]
            result=tables.paired(lines),
            total=len(lines),
            lines=shown,
            count=count,
            order=order,
            who=who,
            number=number,
            pages=max(1, -(-count // tables.PAGE_ROWS)),
            chart=difference_chart([line.difference for line in lines]) if 2 <= len(lines) <= 2000 else None,
            different=len(benchmarks) > 1,
        )

    def compare_problem(self, request: Request) -> Response:
        """What two models wrote on one problem, side by side."""
        asked = request.query_params
        identity = asked.get("problem", "")
        chosen = [self._side(asked.get(name, "")) for name in ("a", "b")]
        if None in chosen:
            raise HTTPException(404, "the address doesn't name two models of runs that are here")
        sides = []
        for name, side in zip(("a", "b"), chosen, strict=True):
            assert side is not None
            run, reader, model = side
            rows = reader.samples.rows.get(_codes(reader, model, identity), [])
            if not rows:
                raise HTTPException(404, f"{model} has no sample on problem {identity!r}")
            at = min(_whole(asked.get(f"{name}_index"), 0), len(rows) - 1)
            sample = reader.sample(rows[at])
            indices = [(place, float(reader.samples.score[row])) for place, row in enumerate(rows)]
            sides.append(
                {
                    "name": name, "run": run, "model": model, "sample": sample, "at": at, "indices": indices,
                    "proof": _paged(sample["proof"] or "", asked.get(f"{name}_proof")),
                    "details": details_of(sample["details"]),
                }
            )  # fmt: skip
        reader = chosen[0][1]  # type: ignore[index]
        return self.page(request, "compare_problem.html.j2", sides=sides, problem=reader.problem(identity))

    # -- what several pages need ------------------------------------------------------------------------------------

    def _run(self, request: Request) -> Run:
        run = self.catalog.run(request.path_params["run"])
        if run is None:
            raise HTTPException(404, f"there is no run {request.path_params['run']!r} here")
        return run

    def _evaluation(self, request: Request) -> tuple[Run, EvaluationReader]:
        run = self._run(request)
        if not run.readable:
            raise HTTPException(404, f"{run.id} has no samples to look at")
        return run, self.catalog.reader(run)

    def _side(self, named: str) -> tuple[Run, EvaluationReader, str] | None:
        identity, _, model = named.partition("~")
        run = self.catalog.run(identity)
        if run is None or not run.readable:
            return None
        reader = self.catalog.reader(run)
        return (run, reader, model) if model in reader.samples.models else None

    def failed(self, request: Request, error: Exception) -> Response:
        """An error as a page: what is wrong in a sentence."""
        code = error.status_code if isinstance(error, HTTPException) else 422
        told = error.detail if isinstance(error, HTTPException) else str(error)
        answer = self.page(request, "error.html.j2", code=code, told=told)
        answer.status_code = code
        return answer


def address(path: str, *fields: Mapping[str, Any], **more: Any) -> str:
    """A link: the path with the fields that are set; later ones win."""
    merged: dict[str, Any] = {}
    for item in (*fields, more):
        merged |= item
    told = {name: value for name, value in merged.items() if value is not None and value != ""}
    return f"{path}?{urlencode(told)}" if told else path


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 9 else default


def _paged(text: str, wanted: str | None, find: str = "") -> dict[str, Any]:
    """One part of a long text, and which parts there are. `part` is None when it is not asked for."""
    count = parts(len(text), PART_CHARACTERS)
    number = None if wanted is None else min(_whole(wanted, 0), count - 1)
    found: list[int] = []
    if find:
        place, lower, words = 0, text.lower(), find.lower()
        while len(found) < 200 and (place := lower.find(words, place)) >= 0:
            at = part_of(text, place, PART_CHARACTERS)
            if not found or found[-1] != at:
                found.append(at)
            place += len(words)
    return {
        "characters": len(text),
        "count": count,
        "part": number,
        "text": part(text, number or 0, PART_CHARACTERS) if text else "",
        "found": found,
    }


def _messages(call: Mapping[str, Any] | None) -> list[dict[str, str]]:
    try:
        found = json.loads(call["messages"] or "[]") if call else []
    except ValueError:
        return []
    return [
        {"role": str(item.get("role", "")), "content": str(item.get("content", ""))[: 2 * PART_CHARACTERS]}
        for item in found
        if isinstance(item, Mapping)
    ]


def _scheme(problem: Mapping[str, Any]) -> Any:
    """The problem's marking scheme as an object, its text where it is none, None without one."""
    if not problem.get("rubric"):
        return None
    try:
        found = json.loads(problem["rubric"])
    except ValueError:
        return str(problem["rubric"])
    return found if isinstance(found, Mapping) else str(problem["rubric"])


def _near(reader: EvaluationReader, row: int) -> dict[str, dict[str, Any] | None]:
    """The samples before and after this one of the same model, problem by problem."""
    samples = reader.samples
    rows = [number for (model, _), found in samples.rows.items() if model == samples.model[row] for number in found]
    at = rows.index(row)

    def named(place: int) -> dict[str, Any] | None:
        if not 0 <= place < len(rows):
            return None
        other = rows[place]
        return {
            "model": samples.models[samples.model[other]],
            "problem": samples.problems[samples.problem[other]],
            "index": int(samples.index[other]),
        }

    return {"before": named(at - 1), "after": named(at + 1)}


def _codes(reader: EvaluationReader, model: str, identity: str) -> tuple[int, int]:
    samples = reader.samples
    problem = samples.problems.index(identity) if identity in samples.problems else -1
    return samples.models.index(model), problem


def _colours(reader: EvaluationReader) -> dict[str, int]:
    return {name: number % 6 for number, name in enumerate(reader.samples.models)}


def _about(reader: EvaluationReader) -> list[tuple[str, str]]:
    """What was done, from the manifest: words and values."""
    manifest = reader.manifest
    spec, benchmark = manifest.spec, manifest.inputs.get("benchmark") or {}
    sampling = spec.get("sampling") or {}
    told = [
        ("Benchmark", str(benchmark.get("name") or benchmark.get("uri") or "")),
        ("Scaffold", str((spec.get("scaffold") or {}).get("type", ""))),
        ("Grader", ", ".join(name for name, value in (spec.get("grader") or {}).items() if isinstance(value, Mapping))),
        ("Temperature", str(sampling.get("temperature", ""))),
        ("Top-p", str(sampling.get("topP", ""))),
        ("At most", f"{sampling['maxTokens']:,} tokens" if isinstance(sampling.get("maxTokens"), int) else ""),
        ("Code", manifest.code_version),
        ("Made", manifest.created.replace("T", " ")[:16]),
        ("Digest", manifest.digest[:19]),
    ]
    return [(name, value) for name, value in told if value]


def make_app(places: Sequence[Path], names: Iterable[str] = ()) -> Starlette:
    """The app over these roots and artifacts; `names` are Host names it answers to besides loopback ones."""
    viewer = Viewer(Catalog(places))
    app = Starlette(
        routes=[
            Route("/", viewer.runs),
            Route("/runs/{run}", viewer.run),
            Route("/runs/{run}/problem", viewer.problem),
            Route("/runs/{run}/sample", viewer.sample),
            Route("/runs/{run}/grade", viewer.grade, methods=["POST"]),
            Route("/runs/{run}/grades.jsonl", viewer.exported),
            Route("/compare", viewer.compare),
            Route("/compare/problem", viewer.compare_problem),
            Mount("/static", _Kept(directory=_HERE / "static")),
            Mount("/pages", _Kept(directory=_PAGES)),
        ],
        middleware=[Middleware(OwnPagesOnly, names=tuple(names)), Middleware(GZipMiddleware, minimum_size=2000)],
        exception_handlers={HTTPException: viewer.failed, QedError: viewer.failed},
    )
    app.state.viewer = viewer
    return app


class _Kept(StaticFiles):
    """Files that a browser may keep, for their address has their version; only what pages use."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer

    def lookup_path(self, path: str) -> Any:
        return super().lookup_path(path) if path.endswith((".css", ".js", ".woff2", ".svg")) else ("", None)
