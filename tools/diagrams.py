"""Draws the diagrams of the pages: `python -m tools.diagrams`. Narrow, so that a phone shows their text well.

Each picture has its own background and follows the reader's light or dark scheme, on the site and on GitHub.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs/images"
WIDTH = 400
_STYLE = """
svg { color-scheme: light dark; }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2430; text-anchor: middle; }
.title { font-weight: 600; }
.small { font-size: 11.5px; fill: #4a5264; }
.label { font-size: 11.5px; fill: #4a5264; }
.left { text-anchor: start; }
.right { text-anchor: end; }
.card { fill: #ffffff; stroke: #d5d9e2; }
.box { fill: #eef1f8; stroke: #8b95ab; }
.data { fill: #fff4dd; stroke: #c99a2e; }
.model { fill: #e4f3e6; stroke: #5b9c66; }
.ours { fill: #e3e9fb; stroke: #4c66c9; }
.line { fill: none; stroke: #5d677d; stroke-width: 1.4; }
.head { fill: #5d677d; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaf0; }
  .small, .label { fill: #b4bbc9; }
  .card { fill: #1e2129; stroke: #3a4050; }
  .box { fill: #2a2f3b; stroke: #77819a; }
  .data { fill: #3d3320; stroke: #c99a2e; }
  .model { fill: #223826; stroke: #6bb077; }
  .ours { fill: #27305a; stroke: #8195ea; }
  .line { stroke: #a3acbf; }
  .head { fill: #a3acbf; }
}
"""
_LINE = 17  # from one line of text to the next


class Picture:
    """Boxes and arrows with coordinates in pixels of a 400 wide sheet."""

    def __init__(self, title: str, about: str, height: int) -> None:
        self.title, self.about, self.height = title, about, height
        self._parts: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, title: str, *lines: str, kind: str = "box") -> None:
        """A box with a title and smaller lines below it, all centred."""
        self._parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>')
        top = y + height / 2 - _LINE * len(lines) / 2 + 4.5
        for number, line in enumerate((title, *lines)):
            name = "small" if number else "title"
            self._parts.append(
                f'<text class="{name}" x="{x + width / 2:g}" y="{top + number * _LINE:g}">{escape(line)}</text>'
            )

    def arrow(self, *points: tuple[int, int]) -> None:
        """A line through the points with a head at its end."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        self._parts.append(f'<path class="line" d="{path}" marker-end="url(#head)"/>')

    def line(self, *points: tuple[int, int]) -> None:
        """The same without a head."""
        self._parts.append(f'<path class="line" d="M{" L".join(f"{x} {y}" for x, y in points)}"/>')

    def bar(self, x: int, y: int, width: int, height: int, kind: str) -> None:
        """A box without words."""
        self._parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>')

    def label(self, x: int, y: int, *lines: str, side: str = "") -> None:
        """Words beside an arrow, centred on x, or with their left or right side there."""
        for number, line in enumerate(lines):
            place = f'x="{x}" y="{y + 14 * number}"'
            self._parts.append(f'<text class="{f"label {side}".strip()}" {place}>{escape(line)}</text>')

    def svg(self) -> str:
        """The whole file."""
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="head" d="M0 0 L8 4 L0 8 Z"/></marker>'
        )
        card = f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" rx="9"/>'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH * 1.3:g}" '
                f'height="{self.height * 1.3:g}" role="img" aria-labelledby="title about">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="about">{escape(self.about)}</desc>',
                f"<style>{_STYLE}</style>",
                f"<defs>{head}</defs>",
                card,
                *self._parts,
                "</svg>\n",
            ]
        )


def pipeline() -> Picture:
    """The four kinds, one after the other."""
    picture = Picture(
        "The four kinds",
        "ProofDataset, SFTRun, RLRun and EvalRun in order; between them go problems and proofs, and weights.",
        404,
    )
    rows = [
        ("ProofDataset", ("collects, cleans, grades and splits",), "data", "problems with proofs"),
        ("SFTRun", ("a model learns from the proofs",), "model", "weights"),
        (
            "RLRun",
            ("actor, vLLM servers and DeepSpeed trainer:", "weights change while servers sample"),
            "model",
            "weights",
        ),
        ("EvalRun", ("scores with intervals, report, viewer",), "ours", ""),
    ]
    y = 18
    for name, lines, kind, gives in rows:
        height = 41 + _LINE * len(lines)
        picture.box(50, y, 300, height, name, *lines, kind=kind)
        if gives:
            picture.arrow((200, y + height), (200, y + height + 40))
            picture.label(210, y + height + 23, gives, side="left")
        y += height + 40
    return picture


def _fork(picture: Picture, top: int, bar: int, bottom: int) -> None:
    """From one box in the middle to two boxes side by side."""
    picture.line((200, top), (200, bar))
    picture.line((105, bar), (295, bar))
    for x in (105, 295):
        picture.arrow((x, bar), (x, bottom))


def architecture() -> Picture:
    """From a manifest to what people see."""
    picture = Picture(
        "How the parts fit together",
        "Manifests are typed by qednano.api and turned into roles by the pure planner; the operator makes pods of "
        "them, the local runner processes; both run the same jobs, which call the library.",
        640,
    )
    picture.box(60, 16, 280, 42, "a manifest", "kind, spec", kind="data")
    picture.arrow((200, 58), (200, 84))
    picture.box(
        60, 84, 280, 60, "qednano.api", "typed models: also CRDs, reference pages,", "qednano validate", kind="ours"
    )
    picture.arrow((200, 144), (200, 170))
    picture.box(
        60, 170, 280, 60, "qednano.plan", "pure: spec → roles, references,", "what an exit code means", kind="ours"
    )
    _fork(picture, 230, 244, 264)
    picture.box(16, 264, 178, 76, "the operator", "roles → Jobs,", "StatefulSets, JobSets", "on a cluster", kind="ours")
    picture.box(206, 264, 178, 76, "qednano run", "roles → processes", "on a laptop", kind="ours")
    picture.line((105, 340), (105, 354))
    picture.line((295, 340), (295, 354))
    picture.line((105, 354), (295, 354))
    picture.arrow((200, 354), (200, 374))
    picture.box(
        60, 374, 280, 60, "jobs", "one JSON file in, an exit code out;", "they know nothing of Kubernetes", kind="model"
    )
    picture.arrow((200, 434), (200, 460))
    picture.box(
        60, 460, 280, 60, "the library", "data, training, RL, graders, language", "models, evaluation", kind="model"
    )
    _fork(picture, 520, 534, 552)
    picture.box(16, 552, 178, 72, "run folder", "checkpoints, weights,", "samples, artifact", kind="data")
    picture.box(206, 552, 178, 72, "/progress, /metrics", "status, tables,", "Prometheus", kind="data")
    return picture


def rl_run() -> Picture:
    """Who gives what to whom while an RLRun goes on."""
    picture = Picture(
        "An RLRun at work",
        "The actor draws problems, asks the rollout servers for proofs, has them graded and publishes whole groups "
        "to the stream; the trainer takes groups and publishes weights, which the servers load while they sample.",
        432,
    )
    left, right, width = 12, 248, 140
    middle = (left + width + right) // 2
    picture.box(left, 18, width, 62, "dataset", "problems, with a", "curriculum", kind="data")
    picture.box(right, 18, width, 62, "grader", "rubric model, checker,", "your own", kind="ours")
    picture.box(left, 150, width, 104, "actor", "samples groups,", "reasoning cache,", "grades, staleness", kind="ours")
    picture.box(right, 150, width, 104, "rollout servers", "vLLM, elastic,", "behind a proxy", kind="model")
    picture.box(left, 336, width, 78, "stream", "files or Redis,", "each group once", kind="data")
    picture.box(right, 336, width, 78, "trainer", "DeepSpeed,", "checkpoints", kind="model")
    picture.arrow((60, 80), (60, 150))
    picture.label(68, 120, "problems", side="left")
    picture.arrow((126, 150), (126, 112), (296, 112), (296, 80))
    picture.label(middle, 106, "proofs")
    picture.arrow((340, 80), (340, 130), (144, 130), (144, 150))
    picture.label(middle, 144, "grades")
    picture.arrow((left + width, 186), (right, 186))
    picture.label(middle, 180, "prompts")
    picture.arrow((right, 212), (left + width, 212))
    picture.label(middle, 228, "tokens,", "log-probs")
    picture.arrow((70, 254), (70, 336))
    picture.label(78, 299, "whole groups", side="left")
    picture.arrow((left + width, 362), (right, 362))
    picture.label(middle, 356, "groups")
    picture.arrow((right, 386), (left + width, 386))
    picture.label(middle, 402, "done, once in", "a checkpoint")
    picture.arrow((330, 336), (330, 254))
    picture.label(290, 299, "weights v")
    return picture


def paper_scores() -> Picture:
    """What the paper reports for IMO-ProofBench, as bars."""
    picture = Picture(
        "IMO-ProofBench in the paper, percent of all points",
        "; ".join(f"{name} {value:g}" for name, value in PAPER),
        218,
    )
    picture.label(200, 26, "IMO-ProofBench, % of all points, as published (arXiv 2604.04898)")
    left, scale = 150, 3.8
    for number, (name, value) in enumerate(PAPER):
        y = 44 + 40 * number
        picture.bar(left, y, round(value * scale), 24, "data" if number < 2 else "model")
        picture.label(left - 8, y + 16, name, side="right")
        picture.label(left + round(value * scale) + 6, y + 16, f"{value:g}", side="left")
    return picture


PAPER = (("base model", 20.4), ("after SFT", 39.5), ("QED-Nano", 40.0), ("+ verify, refine", 57.0))
PICTURES = {"pipeline": pipeline, "architecture": architecture, "rl-run": rl_run, "paper-scores": paper_scores}


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())
        print(f"wrote docs/images/{name}.svg")


if __name__ == "__main__":
    main()
