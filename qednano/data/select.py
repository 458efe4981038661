"""Which candidates become solutions to learn from: good enough, of a fair length, the best ones of each problem."""

from __future__ import annotations

from dataclasses import replace

from qednano.api.data_stages import SelectStage
from qednano.data.schema import Candidate, ProblemRow
from qednano.data.stage import Place, StageWork, Tally


def fault(candidate: Candidate, spec: SelectStage) -> str | None:
    """Why a candidate is left out, in a few words; None if it may become a solution."""
    if candidate.cut_off:
        return "cut off"
    if not candidate.proof:
        return "no proof"
    if not spec.min_characters <= len(candidate.proof) <= spec.max_characters:
        return "length"
    if candidate.completion_tokens > spec.max_tokens:
        return "too many tokens"
    if candidate.score is None:
        return "no score"
    if candidate.score < spec.min_score:
        return "score too low"
    if candidate.disagreement > spec.max_disagreement:
        return "gradings disagree"
    return None


class Select:
    """The best candidates of each row as its solutions; a stage that asks nobody."""

    def __init__(self, spec: SelectStage, place: Place) -> None:
        self.name = place.name
        self._spec = spec

    def prepare(self, work: StageWork) -> None:
        """Nothing: each row stands alone."""

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row with what was selected, and without the other candidates; dropped if nothing was."""
        fit, seen = [], set()
        for candidate in row.candidates:
            why = fault(candidate, self._spec) or ("repeated" if candidate.proof in seen else None)
            seen.add(candidate.proof)
            if why is None:
                fit.append(candidate)
            else:
                tally.counts[f"left out, {why}"] += 1
        fit.sort(key=lambda candidate: (-(candidate.score or 0.0), candidate.completion_tokens, len(candidate.proof)))
        chosen, surplus = fit[: self._spec.per_problem], fit[self._spec.per_problem :]
        tally.counts["left out, others are better"] += len(surplus)
        tally.counts["selected"] += len(chosen)
        if not chosen and not self._spec.keep_unsolved:
            best = max((candidate.score for candidate in row.candidates if candidate.score is not None), default=None)
            told = "none has a score" if best is None else f"the best score is {best:g}"
            tally.drop("Unsolved", row, f"of {len(row.candidates)} candidates none is good enough; {told}")
            return None
        return replace(
            row,
            solutions=[candidate.proof for candidate in chosen],
            reasoning=[candidate.reasoning for candidate in chosen],
            scores=[candidate.score for candidate in chosen],
            candidates=[],
        )
