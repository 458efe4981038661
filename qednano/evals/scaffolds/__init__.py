"""How a model is asked for a proof. One file per scaffold; a new one is a row of `SCAFFOLDS`."""

from __future__ import annotations

from collections.abc import Callable

from qednano.api.scaffold import ScaffoldType
from qednano.evals.scaffolds.answer import Answer, Scaffold
from qednano.evals.scaffolds.single_pass import SinglePass
from qednano.llm.client import SamplingParams

SCAFFOLDS: dict[ScaffoldType, Callable[[SamplingParams, int], Scaffold]] = {ScaffoldType.SINGLE_PASS: SinglePass}

__all__ = ["SCAFFOLDS", "Answer", "Scaffold", "SinglePass"]
