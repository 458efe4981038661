"""Test-time scaffolds: one file each, one small interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qednano.api.scaffold import Scaffold as Spec
from qednano.api.scaffold import ScaffoldType
from qednano.evals.scaffolds.adaptive import Adaptive
from qednano.evals.scaffolds.interface import Scaffold, Solution, Stop
from qednano.evals.scaffolds.nomos import Nomos
from qednano.evals.scaffolds.planning_agent import PlanningAgent
from qednano.evals.scaffolds.reasoning_cache import ReasoningCache
from qednano.evals.scaffolds.rsa import Rsa
from qednano.evals.scaffolds.self_check import SelfCheck
from qednano.evals.scaffolds.single_pass import SinglePass
from qednano.evals.scaffolds.static_agent import StaticAgent
from qednano.evals.scaffolds.verify_refine import VerifyRefine

SCAFFOLDS: dict[ScaffoldType, Callable[..., Scaffold]] = {
    ScaffoldType.SINGLE_PASS: SinglePass,
    ScaffoldType.REASONING_CACHE: ReasoningCache,
    ScaffoldType.VERIFY_REFINE: VerifyRefine,
    ScaffoldType.RSA: Rsa,
    ScaffoldType.NOMOS: Nomos,
    ScaffoldType.SELF_CHECK: SelfCheck,
    ScaffoldType.STATIC_AGENT: StaticAgent,
    ScaffoldType.PLANNING_AGENT: PlanningAgent,
    ScaffoldType.ADAPTIVE: Adaptive,
}


def scaffold_of(spec: Spec) -> Scaffold:
    """The scaffold that a spec asks for."""
    arguments: list[Any] = [] if spec.options is None else [spec.options]
    if spec.type is ScaffoldType.ADAPTIVE:
        arguments.append(spec.budget.tokens)  # moves between samples, so the scaffold itself sees to it
    return SCAFFOLDS[spec.type](*arguments)


__all__ = ["SCAFFOLDS", "Scaffold", "Solution", "Stop", "scaffold_of"]
