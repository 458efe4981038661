"""The four kinds as typed models: the one source of CRDs, reference docs and validation.

What is named here is imported when it is first used: a command that lists runs needs their status, not every spec.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qednano.api.common import API_VERSION, GROUP, VERSION
    from qednano.api.evalrun import EvalRunSpec
    from qednano.api.kinds import KINDS, EvalRun, ProofDataset, RLRun, Run, SFTRun
    from qednano.api.proofdataset import ProofDatasetSpec
    from qednano.api.rlrun import RLRunSpec
    from qednano.api.sftrun import SFTRunSpec
    from qednano.api.status import TERMINAL, ConditionType, Phase, RunStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "TERMINAL",
    "VERSION",
    "ConditionType",
    "EvalRun",
    "EvalRunSpec",
    "Phase",
    "ProofDataset",
    "ProofDatasetSpec",
    "RLRun",
    "RLRunSpec",
    "Run",
    "RunStatus",
    "SFTRun",
    "SFTRunSpec",
]


_HOMES = {"status": ("TERMINAL", "ConditionType", "Phase", "RunStatus"), "base": ("API_VERSION", "GROUP", "VERSION")}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "kinds")
    value = globals()[name] = getattr(import_module(f"qednano.api.{home}"), name)
    return value
